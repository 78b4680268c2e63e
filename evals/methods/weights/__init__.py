"""Base weights from an installed package, the hub or a folder, or drawn at random.

Every source is first brought to one form: a folder that transformers reads. torch and transformers are imported only
where a model is built, so that `identity` stays cheap enough for a dry run.
"""

from evals.methods.tokenizers import byte_tokenizer, load_tokenizer
from evals.methods.weights.configs import causal_config, shape_config
from evals.methods.weights.hub import missing
from evals.methods.weights.identity import identity, tokenizer_identity
from evals.methods.weights.load import check_attention, load_base, load_class
from evals.methods.weights.random import random_model, random_tokenizer, tokenizer_folder
from evals.methods.weights.sources import check_here, resolve, resolve_tokenizer, stored
from evals.methods.weights.spread import check_count

__all__ = [
    "byte_tokenizer",
    "causal_config",
    "check_attention",
    "check_count",
    "check_here",
    "identity",
    "load_base",
    "load_class",
    "load_tokenizer",
    "missing",
    "random_model",
    "random_tokenizer",
    "resolve",
    "resolve_tokenizer",
    "shape_config",
    "stored",
    "tokenizer_folder",
    "tokenizer_identity",
]
