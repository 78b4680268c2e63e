"""The cache of StreamingLLM: attention sinks and a window of recent tokens, with positions inside the cache.

The method fixes the distance between a query and each key: that of their slots in the cache. Rotary attention depends
on distances alone, so the whole cache may slide: a token's position is its index in a buffer, the window moves along
the buffer, and only the few sinks are rotated to stand right before it (always from their first keys, so that rounding
does not add up). At the end of the buffer the window moves back to its start, which rotates the recent keys once. An
eviction thus costs as many tokens as there are sinks, where rotating every key for every token, as the authors' code
does, costs as much as attention itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from transformers import Cache, PreTrainedConfig

from sharedllm.nn.base_config import head_dim, key_value_heads
from sharedllm.nn.fused import rotate
from sharedllm.nn.layers import Rotation

SPARE = 1024
"""Slots beyond what a forward needs when a short buffer grows."""


@dataclass(frozen=True)
class Eviction:
    """When tokens leave: the `first` tokens are read exactly (None: `sinks + recent`); then, and after every `step`
    more tokens, only the `sinks` first and the `recent` last stay.

    step 1 is the authors' loop (one token per forward, evict after it); a larger step is one forward per chunk.
    Boundaries count from the start of the stream, so the result does not depend on how calls cut it.
    """

    sinks: int
    recent: int
    step: int
    first: int | None = None

    @property
    def capacity(self) -> int:
        """Tokens that stay after an eviction."""
        return self.sinks + self.recent

    @property
    def opening(self) -> int:
        """Tokens of the first forward."""
        return self.first or self.capacity

    @property
    def reach(self) -> int:
        """The most tokens that one forward sees, itself included."""
        return max(self.opening, self.capacity + self.step)

    def held(self, seen: int) -> int:
        """Tokens in the cache once `seen` tokens were read."""
        over = seen - self.opening
        if over < 0:
            return seen
        rest = over % self.step
        return min(seen - rest, self.capacity) + rest

    def room(self, seen: int) -> int:
        """Tokens that may be read in one forward before the next eviction; at least 1."""
        over = seen - self.opening
        return -over if over < 0 else self.step - over % self.step

    def pairs(self, seen: int) -> int:
        """Query-key pairs in one layer over a stream of `seen` tokens: token in slot p sees p + 1 keys."""
        exact = min(seen, self.opening)
        full, rest = divmod(seen - exact, self.step)
        growing = min(full, max(0, -((self.opening - self.capacity) // self.step)))  # chunks before the cache is full
        held = growing * self.opening + self.step * growing * (growing - 1) // 2 + (full - growing) * self.capacity
        last = min(self.opening + full * self.step, self.capacity)
        own = _triangle(exact) + full * _triangle(self.step) + _triangle(rest)
        return own + self.step * held + rest * last


def _triangle(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment, by reference: what it refers to is not written to until it is dropped."""

    seen: int
    start: int
    end: int
    states: torch.Tensor
    sinks: torch.Tensor | None


class SinkCache(Cache):
    """Keys and values of the sinks and the recent tokens of every layer; batch 1.

    inv_freq: frequencies of every layer's rotary embedding (layers, rotated dimensions / 2), without any attention
    factor; zeros for a layer without positions.
    Use: `first = cache.expect(q)`, a forward of q tokens at positions first, first + 1, ..., `cache.commit(q)`.
    """

    def __init__(
        self, eviction: Eviction, config: PreTrainedConfig, dtype: torch.dtype, inv_freq: torch.Tensor
    ) -> None:
        super().__init__(layers=[])
        self.eviction = eviction
        self.seen = 0
        self._start = self._end = 0  # the tokens held, as indices of slots
        self._inv_freq = inv_freq.float()
        self._form = (2, len(inv_freq), 1, key_value_heads(config), head_dim(config)), dtype
        self._states = self._buffer(0)
        self._sinks: torch.Tensor | None = None  # keys of the sinks at positions 0, 1, ..., once they were rotated
        self._shared = False  # whether a snapshot refers to the buffer

    def expect(self, tokens: int) -> int:
        """Make room for a forward of `tokens` and return the position of its first."""
        if self._end + tokens > self._states.shape[-2]:
            self._move(tokens)
        return self._end

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self._inv_freq)

    @property
    def rolling(self) -> bool:
        """Whether from here on one token leaves for each that comes."""
        return self.eviction.step == 1 and self.seen >= max(self.eviction.opening, self.eviction.capacity)

    @property
    def steady_room(self) -> int:
        """Tokens that can be read before the next eviction; where the cache rolls, before its slots run out."""
        return self.eviction.capacity if self.rolling else self.eviction.room(self.seen)

    def sinks_at(self, start: torch.Tensor) -> torch.Tensor:
        """Keys (layers, 1, kv_heads, sinks, head_dim) of the sinks at slots from `start` (1,) on."""
        first = self._states[0, ..., : self.eviction.sinks, :] if self._sinks is None else self._sinks
        return self._rotated(first, start)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new tokens (1, kv_heads, q, head_dim); return all keys and values of the layer."""
        end = self._end + key_states.shape[-2]
        self._states[0, layer_idx, ..., self._end : end, :] = key_states
        self._states[1, layer_idx, ..., self._end : end, :] = value_states
        keys, values = self._states[:, layer_idx, ..., self._start : end, :]
        return keys, values

    def commit(self, tokens: int) -> None:
        """Called after a forward of `tokens`: evict where a boundary was reached."""
        self.seen += tokens
        self._end += tokens
        surplus = self.get_seq_length() - self.eviction.held(self.seen)
        if surplus:
            if self._shared:
                self._move(0)
            self._evict(surplus)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held: where the stock mask puts the first new token."""
        return self._end - self._start

    def get_mask_sizes(self, query: int | torch.Tensor, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that a forward sees, and the index of the first. query: how many tokens are new, or (transformers
        5.3) their indices."""
        new = query if isinstance(query, int) else query.shape[0]
        return self.get_seq_length() + new, 0

    @property
    def held(self) -> torch.Tensor:
        """Keys and values of the tokens held: (2, layers, 1, kv_heads, length, head_dim)."""
        return self._states[..., self._start : self._end, :]

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held, without the free slots around them."""
        return self.held.nbytes + (0 if self._sinks is None else self._sinks.nbytes)

    def snapshot(self) -> Snapshot:
        """The state as it is now."""
        self._shared = True
        return Snapshot(self.seen, self._start, self._end, self._states, self._sinks)

    def saved(self) -> Callable[[], None]:
        """Goes back to the state as it is now."""
        return partial(self.restore, self.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to an earlier state of this cache."""
        self.seen, self._start, self._end = snapshot.seen, snapshot.start, snapshot.end
        self._states, self._sinks, self._shared = snapshot.states, snapshot.sinks, True

    def _evict(self, surplus: int) -> None:
        """Drop the `surplus` tokens after the sinks: the sinks move up to the window."""
        old, count = self._start, self.eviction.sinks
        self._start = new = old + surplus
        if self._sinks is None:
            self._sinks = self._states[0, ..., :count, :].clone()  # old is 0 here
        self._states[0, ..., new : new + count, :] = self._rotated(self._sinks, new)
        self._states[1, ..., new : new + count, :] = self._states[1, ..., old : old + count, :].clone()

    def _buffer(self, slots: int) -> torch.Tensor:
        """Keys and values (2, layers, 1, kv_heads, slots, head_dim) of nothing yet. In memory slots come before heads,
        as projections leave them: new tokens of a layer are one piece, which is copied at the speed of memory."""
        (kinds, layers, texts, heads, size), dtype = self._form
        shape = kinds, layers, texts, slots, heads, size
        return torch.empty(shape, dtype=dtype, device=self._inv_freq.device).transpose(3, 4)

    def _move(self, tokens: int) -> None:
        """Bring the tokens held to the start of a buffer that has room for `tokens` more: of this one, where nothing is
        overwritten that is still needed."""
        length, sinks, buffer = self.get_seq_length(), self.eviction.sinks, self._states
        if self._shared or self._start < length or length + tokens > buffer.shape[-2]:
            most = max(self.eviction.reach, 2 * self.eviction.capacity)
            buffer = self._buffer(min(length + tokens + SPARE, most))
        cos, sin = self._turn(-self._start)
        for i, (keys, values) in enumerate(zip(*self.held, strict=True)):
            buffer[1, i, ..., :length, :] = values
            if self._sinks is None:
                buffer[0, i, ..., :length, :] = keys
                continue
            buffer[0, i, ..., :sinks, :] = self._sinks[i]
            place = buffer[0, i, ..., sinks:length, :]
            rotate(keys[..., sinks:, :], cos[i : i + 1], sin[i : i + 1], into=place)
        self._states, self._start, self._end, self._shared = buffer, 0, length, False

    def _turn(self, by: int | torch.Tensor) -> Rotation:
        """Cosines and sines of a move by that many positions, an int or (1,), of every layer: (layers, 1, 1, rotated
        dimensions)."""
        angle = by * torch.cat([self._inv_freq, self._inv_freq], -1)[:, None, None]
        return angle.cos(), angle.sin()

    def _rotated(self, keys: torch.Tensor, by: int | torch.Tensor) -> torch.Tensor:
        """Keys (layers, 1, kv_heads, tokens, head_dim) moved by that many positions."""
        return torch.unflatten(rotate(keys.flatten(0, 1), *self._turn(by)), 0, keys.shape[:2])
