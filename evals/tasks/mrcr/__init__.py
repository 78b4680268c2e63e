"""MRCR, generated."""
