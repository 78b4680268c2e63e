"""Arithmetic and memory of a decoder, by formula from its config; every method's `cost` is put together from these.

A multiply-add counts as two. Only matrix products count: norms, rotary turns and softmax are below 1 % of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def head_dim(config: PretrainedConfig) -> int:
    """Size of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def layer_flops(config: PretrainedConfig) -> float:
    """Linear maps of one decoder layer for one token: query, key, value, output and a gated MLP of three."""
    q, kv = config.num_attention_heads * head_dim(config), config.num_key_value_heads * head_dim(config)
    attention = config.hidden_size * (2 * q + 2 * kv)
    return 2.0 * (attention + 3 * config.hidden_size * config.intermediate_size)


def linear_flops(config: PretrainedConfig) -> float:
    """Linear maps of all layers for one token, without the output head."""
    return config.num_hidden_layers * layer_flops(config)


def head_flops(config: PretrainedConfig) -> float:
    """Logits of one token."""
    return 2.0 * config.hidden_size * config.vocab_size


def attention_flops(config: PretrainedConfig, pairs: float, layers: int | None = None) -> float:
    """Scores and weighted values of `pairs` (query token, visible key) in each of `layers` layers (default all)."""
    layers = config.num_hidden_layers if layers is None else layers
    return 4.0 * layers * config.num_attention_heads * head_dim(config) * pairs


def causal_pairs(new: int, past: int = 0) -> int:
    """Pairs that causal attention visits when `new` tokens are read behind `past` ones."""
    return new * past + new * (new + 1) // 2


def kv_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token over all layers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(config) * dtype.itemsize


def weight_bytes(model: PreTrainedModel) -> int:
    """Parameters as stored; tied ones count once."""
    return sum(p.nbytes for p in model.parameters())


def decode_weight_bytes(model: PreTrainedModel) -> int:
    """Parameters that one decode step reads: all but an input embedding of its own, of which it reads one row."""
    embedding = model.get_input_embeddings().get_parameter("weight")
    tied = model.get_output_embeddings().get_parameter("weight") is embedding
    return weight_bytes(model) - (0 if tied else embedding.nbytes)
