"""Many tokens at once through stock decoder layers, without masks and with few passes over memory.

The stock forward makes a boolean mask for new tokens after a filled cache, which keeps SDPA from its fastest kernels,
and reads memory anew for every norm, rotation and gate. Here attention uses the bottom-right causal mask of the
kernels, which needs no tensor, and elementwise pieces are those of `sharedllm.nn.fused`, as in SharedLLM.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from evals.errors import UserError
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.attention import (
    attend,
    attend_last,
    finish_layer,
    merged,
    project_keys,
    project_queries,
    project_values,
)
from sharedllm.nn.base_config import steady_length, windows
from sharedllm.nn.fused import mlp, rms_norm, rotate
from sharedllm.nn.layers import Decoder, DecoderLayer, Rotation, decoder_of, stock_decoder

Between = Callable[[int, torch.Tensor], torch.Tensor]
"""What a decoder layer does between self-attention and MLP, from its index and states (1, q, hidden) to the same."""
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Self-attention of a layer: its index, queries, the cache's keys and values, and the scale; see `attend_last`."""


def read(
    model: PreTrainedModel,
    ids: torch.Tensor,
    first: int,
    cache: Cache,
    between: Between | None = None,
    attend: Attend | None = None,
    **stock: object,
) -> torch.Tensor:
    """Final hidden states (q, hidden) of `ids` (1, q) at positions first, first + 1, ...; the cache grows by them.

    The cache returns the earlier keys and the new ones, in order. The stock forward reads where `static_decoder` does
    not know the base, for other kernels and for sliding windows; it takes `stock`, and neither `between` nor `attend`.
    """
    check_length(model.config, first + ids.shape[1])
    positions = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
    if not supports_static_decoding(model) or set(windows(model.config)) != {None}:
        assert attend is None
        output = stock_decoder(model)(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, **stock
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[0]
    decoder = decoder_of(model)
    hidden = decoder.embed_tokens(ids)
    rotation = decoder.rotary_emb(hidden, positions)
    for index, layer in enumerate(decoder.layers):
        query, key, value = project(layer, hidden, rotation)
        keys, values = cache.update(key, value, index)
        scale = layer.self_attn.scaling
        heads = attend(index, query, keys, values, scale) if attend else attend_last(query, keys, values, scale)
        attended = merged(heads)
        if between is None:
            hidden = finish_layer(layer, hidden, attended)
        else:
            hidden = between(index, hidden + layer.self_attn.o_proj(attended))
            hidden = hidden + mlp(layer.mlp, rms_norm(layer.post_attention_layernorm, hidden))
    return rms_norm(decoder.norm, hidden)[0]


def read_both_ways(encoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """Final hidden states (texts, S, hidden) of texts (texts, S) that attend to themselves in both directions.

    encoder: a stock decoder stack of Llama.
    """
    hidden = encoder.embed_tokens(ids)
    rotation = encoder.rotary_emb(hidden, torch.arange(ids.shape[1], device=ids.device)[None])
    for layer in encoder.layers:
        hidden = finish_layer(layer, hidden, attend(*project(layer, hidden, rotation)))
    return rms_norm(encoder.norm, hidden)


def project(
    layer: DecoderLayer, hidden: torch.Tensor, rotation: Rotation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries and keys, and values, (B, heads, S, head_dim) each, of a layer's states (B, S, hidden)."""
    attention, normed = layer.self_attn, rms_norm(layer.input_layernorm, hidden)
    cos, sin = (r[:, None] for r in rotation)
    query, key = project_queries(attention, normed), project_keys(attention, normed)
    return rotate(query, cos, sin), rotate(key, cos, sin), project_values(attention, normed)


def check_length(config: PreTrainedConfig, tokens: int) -> None:
    """Raises UserError where `tokens` reach beyond the length at which rotary frequencies begin to change: numbers
    would depend on how the text was cut, and on what was read before it."""
    steady = steady_length(config)
    if steady is not None and tokens > steady:
        raise UserError(
            f"The rotary frequencies of this base change beyond {steady} tokens (dynamic NTK or LongRoPE), and this "
            f"request is longer: shorten it (method truncated with window={steady}), or choose another base."
        )
