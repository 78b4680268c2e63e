"""Activation Beacon: `modeling` is the model, `cache` its state, `adapter` the method."""
