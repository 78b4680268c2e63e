"""Entries of all chunks -> the compressed context: per row, in text order, keys rotated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sharedllm.compressor import Entries
from sharedllm.configuration import SharedLLMConfig
from sharedllm.context import CompressedContext
from sharedllm.entry_budget import within
from sharedllm.nn.attention import take
from sharedllm.nn.layers import Attention, Rotation
from sharedllm.nn.rotation import apply_rotation
from sharedllm.search import Rope


def lay_out(
    config: SharedLLMConfig,
    rope: Rope,
    entries: Entries,
    real: torch.Tensor,
    chunk_index: torch.Tensor | None,
    questions: int,
    readers: Sequence[Attention],
) -> CompressedContext:
    """What the upper model reads.

    entries: of the chunks that count, those of all rows in a row. real: (B, chunks) which ones count, the first ones
    of a row. chunk_index: (B, chunks) positions of the chunks, 0, 1, ... by default. questions: spans of a row,
    those that only fill it up included; each has a budget of chunks that keep their leaves. readers: the
    self-attention of each layer that reads.
    """
    batch, chunks = real.shape
    ragged = len(entries.position) < batch * chunks
    if chunk_index is None:
        chunk_index = torch.arange(chunks, device=real.device).expand(batch, -1)
    index = chunk_index[real] if ragged else chunk_index.flatten()
    rotations = _key_rotations(config, rope, entries, index, readers)

    def per_row(x: torch.Tensor) -> torch.Tensor:
        if ragged:
            return x.new_zeros(batch, chunks, *x.shape[1:]).index_put((real.to(x.device),), x)
        return torch.unflatten(x, 0, (batch, chunks))

    stay, fine = None, None
    match, budget = None, chunks
    if entries.match is not None:
        match, budget = per_row(entries.match), questions * (config.leaf_budget or chunks)
    elif entries.path is None and config.recent_budget is not None:  # nothing was searched: the last chunks
        match, budget = torch.arange(1.0, chunks + 1, device=real.device).expand(batch, -1), config.recent_budget
    if match is not None and budget < chunks:
        stay, fine = within(config, match.masked_fill(~real, -torch.inf), entries.position.shape[1], budget)

    def sequence(x: torch.Tensor) -> torch.Tensor:
        x = per_row(x.transpose(1, 2)).flatten(1, 2)
        return (x if stay is None else take(x, stay)).transpose(1, 2)

    mask = entries.mask
    if ragged and mask is None:
        mask = torch.ones_like(entries.position, dtype=torch.bool)
    if mask is not None:
        mask = per_row(mask).flatten(1)
        mask = mask if stay is None else mask.gather(1, stay)
    return CompressedContext(
        keys=[sequence(apply_rotation(k, r)) for k, r in zip(entries.keys, rotations, strict=True)],
        values=[sequence(v) for v in entries.values],
        query_rotation=_query_rotation(config, rope, entries, real, chunk_index),
        num_chunks=real.sum(1),
        mask=mask,
        path=None if entries.path is None else per_row(entries.path),
        fine=fine,
    )


def _query_rotation(
    config: SharedLLMConfig, rope: Rope, entries: Entries, real: torch.Tensor, chunk_index: torch.Tensor
) -> Rotation | None:
    """Of the queries of cross-attention, by the position after the chunks of their row."""
    if config.attention != "cross":
        return None
    after = torch.where(real, chunk_index + 1, 0).amax(1)  # n, one after the last chunk
    last = after + (config.query_position == "n+1")
    return rope(entries.keys[0], last[:, None]).far


def _key_rotations(
    config: SharedLLMConfig, rope: Rope, entries: Entries, chunk: torch.Tensor, readers: Sequence[Attention]
) -> list[Rotation | None]:
    """Of the keys of each layer; a self-attention that reads them wants them rotated as it rotates its own."""
    if config.attention == "joint":
        rotations = rope(entries.keys[0], entries.position)
        return [rotations.of(attention) for attention in readers]
    return [rope(entries.keys[0], _key_position(config, entries.position, chunk)).far] * len(readers)


def _key_position(config: SharedLLMConfig, node_position: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
    """(chunks, entries); two rotations in a row are one by the sum of their positions."""
    if config.key_positions == "node":
        return node_position
    chunk = chunk[:, None].expand_as(node_position)
    return chunk if config.key_positions == "chunk" else chunk + node_position
