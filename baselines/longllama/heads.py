"""Queries, keys and values of a LongLLaMA layer, and how wide a head is when it is computed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from sharedllm.nn.attention import project_keys, project_queries, project_values
from sharedllm.nn.base_config import steady_length
from sharedllm.nn.layers import Attention, Decoder, Rotation
from sharedllm.nn.rotation import apply_rotation

ALIGNMENT = 8
"""Fused attention wants head sizes that are multiples of 8; the 3B model has 100."""


class Heads(NamedTuple):
    """(batch, heads, tokens, head_dim) each. raw: keys without rotation, where they were asked for."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    raw: torch.Tensor | None


def project(
    attention: Attention, x: torch.Tensor, rotation: Rotation, raw: bool, into: Sequence[torch.Tensor] | None = None
) -> Heads:
    """Of normed states x (batch, tokens, hidden). rotation: (1, 1, tokens, head_dim) each. into: where queries, keys,
    values and, if asked for, raw keys go; new tensors where it is left out."""
    query, key, value = project_queries(attention, x), project_keys(attention, x), project_values(attention, x)
    if into is None:
        return Heads(apply_rotation(query, rotation), apply_rotation(key, rotation), value, key if raw else None)
    queries, keys = apply_rotation(query, rotation, into[0]), apply_rotation(key, rotation, into[1])
    return Heads(queries, keys, into[2].copy_(value), into[3].copy_(key) if raw else None)


def remembered(attention: Attention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys without rotation and values, all that memory takes; see `project`."""
    return project_keys(attention, x), project_values(attention, x)


def padded(size: int) -> int:
    """The head size that kernels take, for one of a checkpoint."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@torch.no_grad()
def pad_heads(decoder: Decoder) -> int:
    """Widen the heads of a decoder to `padded` by zeros in its projections, after each half of a head: the rotation,
    which pairs the halves, then takes a head as any other, and nothing is padded while the model runs. Returns the
    bytes that this adds to the weights.

    The model computes the same function. Its weights have no longer the form of its config. A base whose tensors it
    shares stays as it is. Tables of frequencies that depend on the length (LongRoPE) are made anew while the model
    runs: heads with those keep their size.
    """
    if steady_length(decoder.layers[0].self_attn.config) is not None:
        return 0
    added = 0
    for attention in (layer.self_attn for layer in decoder.layers):
        size = attention.head_dim
        more = (padded(size) - size) // 2
        if not more:
            return 0
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear = cast(nn.Linear, projection)
            added -= linear.weight.nbytes
            linear.weight.data = _padded(linear.weight, size, more)
            linear.out_features = len(linear.weight)
            added += linear.weight.nbytes
            if linear.bias is not None:
                linear.bias.data = _padded(linear.bias, size, more)
        output = cast(nn.Linear, attention.o_proj)
        added -= output.weight.nbytes
        output.weight.data = _padded(output.weight.T, size, more).T.contiguous()
        output.in_features = output.weight.shape[1]
        added += output.weight.nbytes
        attention.head_dim = padded(size)  # type: ignore[misc]  # read-only for all others
    rotary, half = copy.deepcopy(cast(nn.Module, decoder.rotary_emb)), padded(size) // 2
    frequencies = cast(torch.Tensor, rotary.inv_freq)  # of 0 for the zeros: they stay where they are
    rotary.register_buffer("inv_freq", F.pad(frequencies, (0, half - len(frequencies))), persistent=False)
    decoder.rotary_emb = rotary  # type: ignore[method-assign]  # a module, which the type describes by its call
    return added


def _padded(x: torch.Tensor, size: int, more: int) -> torch.Tensor:
    """x (heads * size, ...) with `more` zeros after each half of a head."""
    halves = torch.unflatten(x, 0, (-1, size // 2))
    zeros = halves.new_zeros(len(halves), more, *halves.shape[2:])
    return torch.cat([halves, zeros], 1).flatten(0, 1)
