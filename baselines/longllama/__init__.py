"""LongLLaMA (Focused Transformer): `modeling` is the model, `adapter` the method."""
