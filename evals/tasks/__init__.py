"""Benchmarks: what they ask, and how they score the answers."""
