"""MRCR, generated or official."""
