"""LLMLingua and LLMLingua-2: `compressor` shortens texts with the authors' package, `adapter` is the method."""
