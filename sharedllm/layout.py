"""Blocks of entries -> the compressed context: per row, in text order, keys rotated once.

A block is written where the upper model reads it before the next one is computed, so that nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sharedllm.chunk_rows import ChunkRows
from sharedllm.compressor import Entries
from sharedllm.configuration import SharedLLMConfig
from sharedllm.context import CompressedContext
from sharedllm.entry_budget import columns_on, within
from sharedllm.fine_rows import Contest, FineRows
from sharedllm.nn.attention import numbered, take
from sharedllm.nn.layers import Attention, DecoderLayer, Rotation, layer_device
from sharedllm.nn.rotation import apply_rotation
from sharedllm.search import Rope


class Layout:
    """What the upper model reads, built up from the blocks of the chunks that count, those of all rows in a row.

    layers: the decoder layers that read. real: (B, chunks) which chunks count, the first ones of a row. ragged: whether
    some do not. chunk_index: (B, chunks) positions of the chunks, 0, 1, ... by default. questions: spans of a row,
    those that only fill it up included; each has a budget of chunks that keep their leaves. offload: keys and values
    stay in host memory, not with the layers.
    """

    def __init__(
        self,
        config: SharedLLMConfig,
        rope: Rope,
        layers: Sequence[DecoderLayer],
        real: torch.Tensor,
        ragged: bool,
        chunk_index: torch.Tensor | None,
        questions: int,
        offload: bool,
    ) -> None:
        devices = list(map(layer_device, layers))
        if chunk_index is None:
            chunk_index = torch.arange(real.shape[1], device=real.device).expand(len(real), -1)
        self._config, self._rope, self._readers = config, rope, [layer.self_attn for layer in layers]
        self._real, self._chunk_index, self._questions = real, chunk_index, questions
        self._picked = chunk_index[real] if ragged else chunk_index.flatten()
        self._at = real.flatten().nonzero()[:, 0] if ragged else None
        self._read_on = devices if offload else None
        self._held_on = [torch.device("cpu")] * len(devices) if offload else devices
        self._keys: list[ChunkRows | FineRows] = []
        self._values: list[ChunkRows | FineRows] = []
        self._mask, self._path, self._match = (self._rows(real.device) for _ in range(3))
        self._done = self._width = 0
        self._budget = real.shape[1]
        self._contest: Contest | None = None
        self._query_rotation: Rotation | None = None

    def add(self, entries: Entries) -> None:
        """Take the next block."""
        if self._done == 0:
            self._begin(entries)
        start, self._done = self._done, self._done + len(entries.position)
        rotations = _key_rotations(self._config, self._rope, entries, self._picked[start : self._done], self._readers)
        stay = self._stay(slice(start, self._done), entries.match)
        for rows, key, rotation in zip(self._keys, entries.keys, rotations, strict=True):
            _add(rows, apply_rotation(key, rotation).transpose(1, 2), stay)
        for rows, value in zip(self._values, entries.values, strict=True):
            _add(rows, value.transpose(1, 2), stay)
        for found, part in ((self._mask, entries.mask), (self._path, entries.path), (self._match, entries.match)):
            if part is not None:
                found.add(part)

    def context(self) -> CompressedContext:
        """What the upper model reads, once all blocks are here. It is handed over, not kept."""
        batch, chunks = self._real.shape
        mask, path, match = (self._per_row(rows.take()) for rows in (self._mask, self._path, self._match))
        if mask is None and self._at is not None:
            mask = self._real[..., None].expand(batch, chunks, self._width)
        mask = None if mask is None else mask.flatten(1)
        stay, fine = None, None
        if self._budget < chunks:
            match = self._recency() if match is None else match
            stay, fine = within(self._config, match.masked_fill(~self._real, -torch.inf), self._width, self._budget)
            mask = None if mask is None else mask.gather(1, stay)
            stay = numbered(stay, chunks * self._width)
        return CompressedContext(
            keys=[self._sequence(rows, stay, fine) for rows in self._keys],
            values=[self._sequence(rows, stay, fine) for rows in self._values],
            query_rotation=self._query_rotation,
            num_chunks=self._real.sum(1),
            mask=mask,
            path=path,
            fine=fine,
            read_on=self._read_on,
        )

    def _begin(self, entries: Entries) -> None:
        """What the first block says of all."""
        config, chunks = self._config, self._real.shape[1]
        self._width = entries.position.shape[1]
        self._query_rotation = _query_rotation(config, self._rope, entries, self._real, self._chunk_index)
        if entries.match is not None:
            self._budget = self._questions * (config.leaf_budget or chunks)
        elif entries.path is None and config.recent_budget is not None:  # nothing was searched: the last chunks
            self._budget = config.recent_budget
        alone = len(entries.position) == len(self._picked)
        if self._budget < chunks and not alone:
            self._contest = Contest(self._real.shape, self._budget)
        self._keys, self._values = ([self._entries(device) for device in self._held_on] for _ in range(2))

    def _entries(self, device: torch.device) -> ChunkRows | FineRows:
        rows = self._rows(device)
        if self._contest is None:
            return rows
        return FineRows(rows, *columns_on(self._config, self._width, self._real.device), device)

    def _rows(self, device: torch.device) -> ChunkRows:
        return ChunkRows(self._real.numel(), self._at, device)

    def _stay(self, block: slice, match: torch.Tensor | None) -> torch.Tensor | None:
        """What stays fine after these chunks, where that is asked before all of them are here. match: of a block."""
        if self._contest is None:
            return None
        at = torch.arange(block.start, block.stop, device=self._real.device) if self._at is None else self._at[block]
        return self._contest.add(at, self._recency().flatten()[at] if match is None else match)

    def _recency(self) -> torch.Tensor:
        """(B, chunks): scores by which the last chunks are the best."""
        batch, chunks = self._real.shape
        return torch.arange(1.0, chunks + 1, device=self._real.device).expand(batch, -1)

    def _per_row(self, x: torch.Tensor | None) -> torch.Tensor | None:
        """(B * chunks, ...) -> (B, chunks, ...)."""
        return None if x is None else torch.unflatten(x, 0, self._real.shape)

    def _sequence(
        self, rows: ChunkRows | FineRows, stay: torch.Tensor | None, fine: torch.Tensor | None
    ) -> torch.Tensor:
        """Keys or values of a layer, (B, kv, entries, d). stay, fine: see `within`."""
        if isinstance(rows, FineRows):
            assert self._contest is not None
            assert self._contest.rows is not None
            assert fine is not None
            x = rows.take(self._contest.rows, fine)
        else:
            whole = self._per_row(rows.take())
            assert whole is not None
            x = whole.flatten(1, 2)
            x = x if stay is None else take(x, stay)
        if self._read_on is not None and self._real.is_cuda and not (x.requires_grad or x.is_pinned()):
            x = x.pin_memory()
        return x.transpose(1, 2)


def _add(rows: ChunkRows | FineRows, block: torch.Tensor, stay: torch.Tensor | None) -> None:
    if isinstance(rows, FineRows):
        assert stay is not None
        rows.add(block, stay)
    else:
        rows.add(block)


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
