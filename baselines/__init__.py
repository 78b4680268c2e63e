"""Rival methods, as adapters over the harness's interface. Part of the package sharedllm."""
