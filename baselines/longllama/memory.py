"""What LongLLaMA keeps of a text: a local cache in every layer, and in the memory layers all that left it.

Keys in memory carry no rotation, which is the rotation of position 0; local keys are rotated by their place in the
local cache. A memory layer attends to both at once, so both lie side by side in one buffer, [memory | local]: no
step copies the memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from sharedllm.nn.fused import store


class LocalLayer:
    """Rotated keys and values (batch, heads, tokens, head_dim) since the last flush.

    Tensors are replaced and never written to, so a snapshot is a reference.
    """

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def append(
        self, raw: torch.Tensor | None, rotated: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens; returns all keys and values to attend to. raw: keys without rotation, for memory layers."""
        self.keys = _extended(self.keys, rotated)
        self.values = _extended(self.values, values)
        return self.keys, self.values

    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values to attend to; at least one token must be there."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def flush(self) -> None:
        """Drop the local cache: the next token starts at position 0."""
        self.keys = self.values = None

    def snapshot(self, local: int) -> Any:
        """Of the first `local` tokens."""
        return tuple(_first(x, local) for x in (self.keys, self.values))

    def restore(self, saved: Any) -> None:
        self.keys, self.values = saved

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.keys, self.values) if t is not None)


class MemoryLayer(LocalLayer):
    """A local cache that moves into memory when it is flushed.

    stored: tokens in memory. The buffer holds them and, after them, a copy of the local cache. Memory is rounded
    to `dtype` (the released `mem_dtype`) but held in the dtype of the model, in which it is used.
    reserve: tokens that fit before the buffer must grow, by `step` at a time.
    """

    def __init__(self, dtype: torch.dtype, reserve: int, step: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.stored = 0
        self.raw: torch.Tensor | None = None
        self._reserve = reserve
        self._step = step
        self._buffer: list[torch.Tensor] = []

    def append(
        self, raw: torch.Tensor | None, rotated: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert raw is not None
        self.raw = _extended(self.raw, raw)
        keys, _ = super().append(raw, rotated, values)
        end = self.stored + keys.shape[2]
        self._make_room(end - raw.shape[2], rotated)
        self._write(end - raw.shape[2], rotated, values)
        return self.held()

    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        local, _ = super().held()
        end = self.stored + local.shape[2]
        keys, values = (t[:, :, :end] for t in self._buffer)
        return keys, values

    def remember(self, raw: torch.Tensor, values: torch.Tensor) -> None:
        """Add tokens to memory, past an empty local cache."""
        self._make_room(self.stored, raw)
        self._write(self.stored, raw.to(self.dtype), values.to(self.dtype))
        self.stored += raw.shape[2]

    def flush(self) -> None:
        if self.raw is not None and self.values is not None:
            rounded = self.values.to(self.dtype)
            self._write(self.stored, self.raw.to(self.dtype), None if rounded is self.values else rounded)
            self.stored += self.raw.shape[2]
        self.raw = None
        super().flush()

    def snapshot(self, local: int) -> Any:
        return self.stored, _first(self.raw, local), super().snapshot(local)

    def restore(self, saved: Any) -> None:
        stored, raw, local = saved
        flushed = self.stored != stored
        super().restore(local)
        self.stored, self.raw = stored, raw
        if flushed and self.keys is not None and self.values is not None:
            self._write(stored, self.keys, self.values)

    def memory(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys without rotation and values (batch, heads, stored, head_dim)."""
        keys, values = (t[:, :, : self.stored] for t in self._buffer)
        return keys, values

    @property
    def nbytes(self) -> int:
        local = 0 if self.raw is None else self.raw.shape[2]
        used = sum(t[:, :, : self.stored + local].nbytes for t in self._buffer)
        return super().nbytes + used + (0 if self.raw is None else self.raw.nbytes)

    def _make_room(self, start: int, tokens: torch.Tensor) -> None:
        """For keys and values like `tokens` (batch, heads, n, head_dim) at `start` and after it."""
        end = start + tokens.shape[2]
        if not self._buffer or end > self._buffer[0].shape[2]:
            old, capacity = self._buffer, self._reserve if end <= self._reserve else end + self._step
            batch, heads, _, size = tokens.shape  # by token, so that strides, too, do not depend on the capacity
            self._buffer = [tokens.new_empty((batch, capacity, heads, size)).transpose(1, 2) for _ in range(2)]
            for new, before in zip(self._buffer, old, strict=False):
                new[:, :, :start] = before[:, :, :start]

    def _write(self, start: int, keys: torch.Tensor, values: torch.Tensor | None) -> None:
        """values: None where they are in the buffer."""
        for buffer, tokens in zip(self._buffer, (keys, values), strict=True):
            if tokens is not None:
                store(tokens, buffer[:, :, start : start + keys.shape[2]])


class LongLlamaState:
    """The caches of all layers. local: tokens in the local cache."""

    def __init__(
        self, layers: int, mem_layers: Iterable[int], mem_dtype: torch.dtype, reserve: int, window: int
    ) -> None:
        """reserve: slots to allocate at once in each memory layer; `window` more whenever they run out."""
        chosen = set(mem_layers)
        self.layers = [MemoryLayer(mem_dtype, reserve, window) if i in chosen else LocalLayer() for i in range(layers)]
        self.local = 0

    def flush(self) -> None:
        """The local cache overflows: every layer forgets it, memory layers keep it in memory."""
        self.local = 0
        for layer in self.layers:
            layer.flush()

    def snapshot(self, local: int | None = None) -> Any:
        """As it is, or with only the first `local` tokens of the local cache."""
        local = self.local if local is None else local
        return local, [layer.snapshot(local) for layer in self.layers]

    def restore(self, saved: Any) -> None:
        """Back to a snapshot, exactly. Valid for the latest snapshot only: memory is shared, not copied."""
        self.local, layers = saved
        for layer, before in zip(self.layers, layers, strict=True):
            layer.restore(before)

    @property
    def stored(self) -> int:
        """Tokens in memory."""
        return max((layer.stored for layer in self.layers if isinstance(layer, MemoryLayer)), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held, without the free room after them."""
        return sum(layer.nbytes for layer in self.layers)


def _first(x: torch.Tensor | None, tokens: int) -> torch.Tensor | None:
    return None if x is None else x[:, :, :tokens]


def _extended(old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
    return new if old is None else torch.cat([old, new], dim=2)
