"""A key/value cache with room to grow: stock DynamicCache copies all of itself for every new token."""

from __future__ import annotations

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from sharedllm.nn.fused import store

ROOM = 1024
"""Tokens added at once when the buffer is full."""


class BufferLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its hook is untyped in transformers
    """Keys and values of one layer in buffers of (batch, kv_heads, capacity, head_dim); `keys` and `values` are
    views of the part in use, so whatever the base class says about lengths and masks holds."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in transformers
        self._capacity = capacity
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [_grown(None, x, self._capacity) for x in (key_states, value_states)]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [_grown(x[..., :start, :], x, end + ROOM) for x in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            store(states, buffer[..., start:end, :])
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens; the buffers stay."""
        if self.is_initialized:
            self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)


class BufferCache(Cache):
    """A cache of BufferLayers. capacity: tokens that fit before the buffers must grow."""

    layers: list[BufferLayer]  # type: ignore[assignment]  # a narrower list than the base class has

    def __init__(self, layers: int, capacity: int) -> None:
        self._own = [BufferLayer(capacity) for _ in range(layers)]
        super().__init__(layers=[*self._own])

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens in every layer."""
        for layer in self._own:
            layer.truncate(length)

    def keys_values(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What every layer holds: keys and values of (batch, kv_heads, tokens, head_dim)."""
        pairs = ((layer.keys, layer.values) for layer in self._own)
        return [(keys, values) for keys, values in pairs if keys is not None and values is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held, without the free room after them."""
        return sum(x.nbytes for layer in self._own for x in (layer.keys, layer.values) if x is not None)


def _grown(held: torch.Tensor | None, like: torch.Tensor, capacity: int) -> torch.Tensor:
    """An empty buffer of `capacity` tokens in the form of `like`, with `held` copied to its start."""
    capacity = max(capacity, like.shape[-2])
    buffer = like.new_empty((*like.shape[:-2], capacity, like.shape[-1]))
    if held is not None:
        buffer[..., : held.shape[-2], :] = held
    return buffer
