"""Cells on the workers of a Ray cluster. The driver is the only one that writes the run folder."""
