"""Tokenizers: that of a checkpoint's folder, that inside a GGUF file, and one of bytes."""

from evals.methods.tokenizers.byte_level import byte_tokenizer
from evals.methods.tokenizers.load import TOKENIZER_FILES, check_has_tokenizer, has_tokenizer, load_tokenizer
from evals.methods.tokenizers.vocabulary import fit_vocabulary

__all__ = [
    "TOKENIZER_FILES",
    "byte_tokenizer",
    "check_has_tokenizer",
    "fit_vocabulary",
    "has_tokenizer",
    "load_tokenizer",
]
