"""The cache of StreamingLLM: attention sinks and a window of recent tokens, with positions inside the cache.

Keys stay in memory as they were written, that is rotated to the slot they had then. What attention reads is
turned by (slot now - slot then), one rotation from the stored tensor, so rounding does not add up however long
the stream is. Slots follow from the number of tokens seen alone: the state is keys, values and one integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Eviction:
    """When tokens leave: the first `sinks + recent` are read exactly; from then on, after every `step` more
    tokens, only the `sinks` first and the `recent` last stay.

    step 1 is the authors' loop (one token per forward, evict after it); a larger step is one forward per chunk.
    Boundaries count from the start of the stream, so the result does not depend on how calls cut it.
    """

    sinks: int
    recent: int
    step: int

    @property
    def capacity(self) -> int:
        return self.sinks + self.recent

    def held(self, seen: int) -> int:
        """Tokens in the cache once `seen` tokens were read."""
        over = seen - self.capacity
        return seen if over <= 0 else self.capacity + over % self.step

    def room(self, seen: int) -> int:
        """Tokens that may be read in one forward before the next eviction; at least 1."""
        over = seen - self.capacity
        return -over if over < 0 else self.step - over % self.step

    def key_reads(self, seen: int) -> int:
        """Query-key pairs in one layer over a stream of `seen` tokens: token in slot p sees p + 1 keys."""
        exact = min(seen, self.capacity)
        full, rest = divmod(seen - exact, self.step)
        triangle = exact * (exact + 1) // 2
        chunk = self.step * self.capacity + self.step * (self.step + 1) // 2
        return triangle + full * chunk + rest * self.capacity + rest * (rest + 1) // 2


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment. No tensor is ever written in place, so references are enough."""

    seen: int
    layers: tuple[tuple[torch.Tensor | None, torch.Tensor | None], ...]


class SinkCache(Cache):
    """Keys and values of the sinks and the recent tokens of every layer; batch 1.

    It reports its in-cache length, so a stock model gives new tokens the positions behind it.
    inv_freq: frequencies of the model's rotary embedding, shape (head_dim / 2,), without any attention factor.
    """

    def __init__(self, eviction: Eviction, layers: int, inv_freq: torch.Tensor) -> None:
        super().__init__(layers=[DynamicLayer() for _ in range(layers)])
        self.eviction = eviction
        self.seen = 0
        self._inv_freq = inv_freq.float()
        self._turn: tuple[torch.Tensor, torch.Tensor] | None = None

    def expect(self, tokens: int) -> None:
        """Called before a forward of `tokens`: finds by how much each key must be turned, once for all layers."""
        shift = self._shift(self.seen + tokens)
        if shift is None:
            self._turn = None
            return
        angle = shift[:, None].float() * self._inv_freq
        angle = torch.cat([angle, angle], dim=-1)
        self._turn = angle.cos(), angle.sin()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new tokens (1, kv_heads, q, head_dim); return all keys at their slots of now, and all values."""
        keys, values = self.layers[layer_idx].update(key_states, value_states)
        return (keys if self._turn is None else rotate(keys, *self._turn)), values

    def commit(self, tokens: int) -> None:
        """Called after a forward of `tokens`: evict where a boundary was reached."""
        self.seen += tokens
        surplus = self.layers[0].keys.shape[-2] - self.eviction.held(self.seen)
        if surplus:
            first = self.eviction.sinks
            for layer in self.layers:
                layer.keys = _without(layer.keys, first, surplus)
                layer.values = _without(layer.values, first, surplus)

    def snapshot(self) -> Snapshot:
        """The state as it is now."""
        return Snapshot(self.seen, tuple((layer.keys, layer.values) for layer in self.layers))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to an earlier state of this cache."""
        self.seen = snapshot.seen
        for layer, (keys, values) in zip(self.layers, snapshot.layers, strict=True):
            layer.keys, layer.values, layer.is_initialized = keys, values, keys is not None

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for layer in self.layers for x in (layer.keys, layer.values) if x is not None)

    def _shift(self, seen: int) -> torch.Tensor | None:
        """Slot now minus slot when written of every key that a forward up to `seen` reads; None: all zero."""
        sinks, capacity, step = self.eviction.sinks, self.eviction.capacity, self.eviction.step
        length = self.layers[0].get_seq_length() + seen - self.seen
        if seen == length:  # nothing evicted yet
            return None
        slot = torch.arange(sinks, length, device=self._inv_freq.device)
        token = slot + (seen - length)  # place in the stream
        written = torch.where(token < capacity, token, capacity + (token - capacity) % step)
        return torch.cat([slot.new_zeros(sinks), slot - written])


def rotate(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys (..., length, head_dim) turned by the angles of cos, sin (length, head_dim); in float32, cast once.

    Dimension i turns with i + head_dim / 2, as in Llama, Mistral and Qwen.
    """
    half = keys.shape[-1] // 2
    crossed = torch.cat([-keys[..., half:], keys[..., :half]], dim=-1)
    return (keys * cos + crossed * sin).to(keys.dtype)


def _without(states: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """States (1, heads, length, head_dim) without the `count` tokens from index `first` on, as a new tensor."""
    return torch.cat([states[..., :first, :], states[..., first + count :, :]], dim=-2)
