"""Rival methods, as adapters over the harness's interface."""
