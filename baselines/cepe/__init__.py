"""CEPE and CEPED: `modeling` is the model, `adapter` the method."""
