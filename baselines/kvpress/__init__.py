"""Compression of the keys and values of a context by the presses of NVIDIA's kvpress."""
