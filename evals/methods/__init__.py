"""The interface of a method, its presets and weights, and the tools of adapters."""
