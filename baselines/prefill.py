"""Many tokens at once through a stock decoder, behind those that its cache holds.

The stock forward makes a boolean mask for new tokens behind a filled cache, which keeps SDPA from its fastest kernels,
and walks through memory for every norm, rotation and gate. Here attention is causal with its corner at the end, which
needs no mask, and elementwise pieces are those of `sharedllm.fused`: a rival is read as SharedLLM is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from transformers import Cache, PreTrainedModel

from baselines.fixed_decoder import has_fixed_step
from sharedllm.attention import attend, finish_layer, project_keys, project_queries, project_values
from sharedllm.fused import rms_norm, rotate
from sharedllm.masks import sliding_window


def read(model: PreTrainedModel, ids: torch.Tensor, first: int, cache: Cache) -> torch.Tensor:
    """Final hidden states (q, hidden) of `ids` (1, q) at positions first, first + 1, ...; the cache grows by them.

    The cache hands back the keys before the new ones and these, in order. Bases that `baselines.fixed_decoder` does
    not know, other kernels and layers that look back over a window only go through the stock forward.
    """
    positions = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
    windows = {sliding_window(model.config, index) for index in range(model.config.num_hidden_layers)}
    if not has_fixed_step(model) or windows != {None}:
        output = model.base_model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
        return output.last_hidden_state[0]
    decoder: Any = model.base_model
    hidden = decoder.embed_tokens(ids)
    cos, sin = decoder.rotary_emb(hidden, positions)
    rotation = cos[:, None], sin[:, None]
    for index, layer in enumerate(decoder.layers):
        attention, normed = layer.self_attn, rms_norm(layer.input_layernorm, hidden)
        query = rotate(project_queries(attention, normed), *rotation)
        key = rotate(project_keys(attention, normed), *rotation)
        keys, values = cache.update(key, project_values(attention, normed), index)
        hidden = finish_layer(layer, hidden, attend_last(query, keys, values))
    return rms_norm(decoder.norm, hidden)[0]


def attend_last(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of queries that stand at the end of the keys: (1, heads, q, d) -> (1, q, heads * d)."""
    queries, keys = query.shape[2], key.shape[2]
    if queries in (1, keys):
        return attend(query, key, value, causal=queries > 1)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # this form of SDPA leaves grouped heads to its kernels, not all of which know them
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    bias = causal_lower_right(queries, keys)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)
