"""Pieces of decoder layers that every method shares: attention, norms, rotation, masks, configs."""
