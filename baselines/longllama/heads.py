"""Queries, keys and values of a LongLLaMA layer as they lie in its caches: rotated, and padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from sharedllm.nn.fused import compiled, rotated
from sharedllm.nn.joined import products
from sharedllm.nn.layers import Attention, Projection, Rotation


class Heads(NamedTuple):
    """(batch, heads, tokens, padded head_dim) each. raw: keys without rotation, where they were asked for."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    raw: torch.Tensor | None


def project(attention: Attention, x: torch.Tensor, rotation: Rotation, size: int, raw: bool) -> Heads:
    """Of normed states x (batch, tokens, hidden); rotation: (1, 1, tokens, head_dim) each, size: of a padded head."""
    cos, sin = (t.transpose(1, 2).expand(len(x), -1, -1, -1).flatten(0, 1) for t in rotation)
    query, key, value = _by_token([attention.q_proj, attention.k_proj, attention.v_proj], attention, x)
    queries, keys, values, plain = compiled(_rotated_and_padded, x)(query, key, value, cos, sin, size, raw)
    batch = len(x)
    return Heads(
        _by_head(queries, batch),
        _by_head(keys, batch),
        _by_head(values, batch),
        None if plain is None else _by_head(plain, batch),
    )


def remembered(attention: Attention, x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys without rotation and values, all that memory takes; see `project`."""
    key, value = _by_token([attention.k_proj, attention.v_proj], attention, x)
    return _by_head(_padded(key, size), len(x)), _by_head(_padded(value, size), len(x))


def _by_token(projections: Sequence[Projection], attention: Attention, x: torch.Tensor) -> list[torch.Tensor]:
    """(batch, tokens, hidden) -> (batch * tokens, heads, head_dim) of each projection."""
    return [torch.unflatten(made.flatten(0, 1), -1, (-1, attention.head_dim)) for made in products(projections, x)]


def _by_head(x: torch.Tensor, batch: int) -> torch.Tensor:
    """(batch * tokens, heads, d) -> (batch, heads, tokens, d)."""
    return torch.unflatten(x, 0, (batch, -1)).transpose(1, 2)


def _padded(x: torch.Tensor, size: int) -> torch.Tensor:
    pad = size - x.shape[-1]
    return F.pad(x, (0, pad)) if pad else x


def _rotated_and_padded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    size: int,
    raw: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Queries, keys, values and, if asked for, keys without rotation, padded to `size`; all (rows, heads, d)."""
    return (
        _padded(rotated(query, cos, sin), size),
        _padded(rotated(key, cos, sin), size),
        _padded(value, size),
        _padded(key, size) if raw else None,
    )
