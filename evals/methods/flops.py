"""Arithmetic and memory of a decoder, by formula from its config; every method's `cost` is built from these.

A multiply-add counts as two. Only matrix products count: norms, rotations and softmax are below 1 % of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evals.methods.base import Cost
from sharedllm.nn.base_config import head_dim, key_value_heads, text_config
from sharedllm.nn.layers import stock_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def layer_flops(config: PreTrainedConfig) -> float:
    """Linear maps of one decoder layer per token: query, key, value, output and a gated MLP of three."""
    hidden, mlp = int(config.hidden_size), int(config.intermediate_size)
    q, kv = int(config.num_attention_heads) * head_dim(config), key_value_heads(config) * head_dim(config)
    return 2.0 * (hidden * (2 * q + 2 * kv) + 3 * hidden * mlp)


def decoder_flops(model: PreTrainedModel) -> float:
    """Linear maps of all layers per token, counted from the parameters: of any family, and of the experts of a mixture
    only the share that a token visits. Equal to `linear_flops` for Llama-like bases."""
    config = text_config(model.config)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    visited = (getattr(config, "num_experts_per_tok", None) or 1) / experts
    total = 0.0
    for name, module in stock_decoder(model).named_modules():
        if not isinstance(module, torch.nn.Embedding):
            matrices = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
            total += matrices * (visited if "experts" in name.split(".") else 1)
    return 2.0 * total


def linear_flops(config: PreTrainedConfig) -> float:
    """Linear maps of all layers per token, without the output head."""
    return int(config.num_hidden_layers) * layer_flops(config)


def head_flops(config: PreTrainedConfig) -> float:
    """Logits of one token."""
    config = text_config(config)
    return 2.0 * int(config.hidden_size) * int(config.vocab_size)


def attention_flops(config: PreTrainedConfig, pairs: float, layers: int | None = None) -> float:
    """Scores and weighted values of `pairs` (query token, visible key) in each of `layers` layers (default all)."""
    config = text_config(config)
    layers = int(config.num_hidden_layers) if layers is None else layers
    return 4.0 * layers * int(config.num_attention_heads) * head_dim(config) * pairs


def causal_pairs(new: int, past: int = 0) -> int:
    """Pairs that causal attention visits when `new` tokens are read after `past` ones."""
    return new * past + new * (new + 1) // 2


def kv_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values per token over all layers."""
    config = text_config(config)
    return 2 * int(config.num_hidden_layers) * key_value_heads(config) * head_dim(config) * dtype.itemsize


def weight_bytes(model: torch.nn.Module) -> int:
    """Parameters as stored; tied ones count once."""
    return sum(p.nbytes for p in model.parameters())


def decode_weight_bytes(model: PreTrainedModel) -> int:
    """Parameters that one decode step reads: all but an input embedding of its own, of which it reads one row, and
    what a multimodal model has beside its text decoder."""
    embedding = model.get_input_embeddings().get_parameter("weight")
    tied = model.get_output_embeddings().weight is embedding  # type: ignore[no-untyped-call]  # of transformers
    decoder, whole = stock_decoder(model), model.base_model
    beside = weight_bytes(whole) - weight_bytes(decoder) if getattr(whole, "language_model", None) is decoder else 0
    return weight_bytes(model) - beside - (0 if tied else embedding.nbytes)


def parameter_cost(model: PreTrainedModel, prefill: float, decode: float, state_bytes: int) -> Cost:
    """Cost of a method of which only this is known: `prefill` tokens are read for the first new token and `decode` for
    each one after it. 2 FLOPs per parameter and token (Kaplan et al. 2020, section 2.1); attention is left out."""
    flops, weights = 2.0 * sum(p.numel() for p in model.parameters()), weight_bytes(model)
    return Cost(flops * prefill, flops * decode, weights, state_bytes, weights + state_bytes)
