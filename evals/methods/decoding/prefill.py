"""Many tokens at once through stock decoder layers, without masks and with few passes over memory.

The stock forward makes a boolean mask for new tokens after a filled cache, which keeps SDPA from its fastest kernels,
and reads memory anew for every norm, rotation and gate. Here attention uses the bottom-right causal mask of the
kernels, which needs no tensor, and elementwise pieces are those of `sharedllm.nn.fused`, as in SharedLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from evals.errors import UserError
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.attention import (
    attend,
    merged,
    project_keys,
    project_queries,
    project_values,
)
from sharedllm.nn.base_config import steady_length, windows
from sharedllm.nn.branches import (
    after_attention,
    before_attention,
    feed_forward,
    finish_and_norm,
    finish_layer,
    input_norms,
)
from sharedllm.nn.fused import rms_norm
from sharedllm.nn.layers import Decoder, DecoderLayer, decoder_of, embed, stock_decoder
from sharedllm.nn.parts import attend_newest
from sharedllm.nn.rotation import Rotations, apply_rotation, rotations

Between = Callable[[int, torch.Tensor], torch.Tensor]
"""What a decoder layer does between self-attention and MLP, from its index and states (1, q, hidden) to the same."""
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Self-attention of a layer: its index, queries, keys and values, and the scale; see `attend_last`."""


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

    The cache returns the earlier keys and the new ones, in order; `attend` gets both. The stock forward reads where
    `static_decoder` does not know the base, for other kernels and for sliding windows of which no `attend` takes care;
    it takes `stock`, and neither `between` nor `attend`.
    """
    check_length(model.config, first + ids.shape[1])
    positions = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
    if not supports_static_decoding(model) or (attend is None and set(windows(model.config)) != {None}):
        assert attend is None
        output = stock_decoder(model)(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, **stock
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[0]

    def on_cache(index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        keys, values = cache.update(key, value, index)
        return attend(index, query, keys, values, scale) if attend else attend_newest(query, keys, values, scale)

    return run_layers(decoder_of(model), ids, positions, on_cache, between)[0]


def run_layers(
    decoder: Decoder, ids: torch.Tensor, positions: torch.Tensor, attend: Attend, between: Between | None = None
) -> torch.Tensor:
    """Final hidden states (B, S, hidden) of ids (B, S) at positions (B or 1, S). attend: gets keys and values of these
    tokens alone."""
    hidden = embed(decoder, ids)
    rope = rotations(decoder, hidden, positions)
    for index, layer in enumerate(decoder.layers):
        query, key, value = project(layer, before_attention(layer, hidden), rope)
        attended = merged(attend(index, query, key, value, layer.self_attn.scaling))
        if between is None:
            hidden = finish_layer(layer, hidden, attended)
        else:
            hidden = between(index, after_attention(layer, hidden, layer.self_attn.o_proj(attended)))
            hidden = feed_forward(layer, hidden)
    return rms_norm(decoder.norm, hidden)


def read_both_ways(encoder: Decoder, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Final hidden states (texts, S, hidden) of texts (texts, S) that attend to themselves in both directions.

    encoder: a stock decoder stack of Llama. mask: True at tokens that are attended to, broadcastable to (texts, 1, S,
    S); None where all are.
    """
    hidden = encoder.embed_tokens(ids)
    rope = rotations(encoder, hidden, torch.arange(ids.shape[1], device=ids.device)[None])
    norms = input_norms(encoder)
    normed = rms_norm(norms[0], hidden)
    for layer, follower in zip(encoder.layers, norms[1:], strict=True):
        attended = layer.self_attn.o_proj(attend(*project(layer, normed, rope), mask=mask))
        hidden, normed = finish_and_norm(layer, hidden, attended, follower)
    return normed


def project(
    layer: DecoderLayer,
    normed: torch.Tensor,
    rope: Rotations,
    into: Sequence[torch.Tensor | None] = (None, None, None),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries and keys, and values, (B, heads, S, head_dim) each, of what a layer's attention reads (B, S,
    hidden). into: where they go; see `rotate`."""
    attention = layer.self_attn
    rotation, (queries, keys, values) = rope.of(attention), into
    query = apply_rotation(project_queries(attention, normed), rotation, queries)
    key = apply_rotation(project_keys(attention, normed), rotation, keys)
    return query, key, apply_rotation(project_values(attention, normed), None, values)


def check_length(config: PreTrainedConfig, tokens: int) -> None:
    """Raises UserError where `tokens` reach beyond the length at which rotary frequencies begin to change: numbers
    would depend on how the text was cut, and on what was read before it."""
    steady = steady_length(config)
    if steady is not None and tokens > steady:
        raise UserError(
            f"The rotary frequencies of this base change beyond {steady} tokens (dynamic NTK or LongRoPE), and this "
            f"request is longer: shorten it (method truncated with window={steady}), or choose another base."
        )
