"""The sink cache of a base whose layers are on several devices: one cache on each, which all see the same stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from transformers import Cache, PreTrainedConfig

from baselines.streaming_llm.sink_cache import Eviction, SinkCache


def sink_cache(
    eviction: Eviction,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    inv_freq: torch.Tensor,
    places: Sequence[torch.device],
) -> SinkCache | SpreadSinkCache:
    """The cache of a base whose layers are at `places`. The other arguments: see `SinkCache`."""
    parts, first = [], 0
    for device, layers in groupby(places):
        count = len(list(layers))
        parts.append(SinkCache(eviction, config, dtype, inv_freq[first : first + count].to(device)))
        first += count
    return parts[0] if len(parts) == 1 else SpreadSinkCache(parts)


class SpreadSinkCache(Cache):
    """`SinkCache`s of consecutive layers as one cache. It has no static step, so it shows no states."""

    def __init__(self, parts: Sequence[SinkCache]) -> None:
        super().__init__(layers=[])
        self.parts = parts
        self._of_layer = [(part, index) for part in parts for index in range(part.depth)]

    @property
    def eviction(self) -> Eviction:
        return self.parts[0].eviction

    @property
    def seen(self) -> int:
        """Tokens of the stream so far."""
        return self.parts[0].seen

    def expect(self, tokens: int) -> int:
        """Make room for a forward of `tokens` and return the position of its first."""
        return {part.expect(tokens) for part in self.parts}.pop()  # they all agree

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new tokens of a layer; return all its keys and values."""
        part, index = self._of_layer[layer_idx]
        return part.update(key_states, value_states, index)

    def commit(self, tokens: int) -> None:
        """Called after a forward of `tokens`."""
        for part in self.parts:
            part.commit(tokens)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.parts[0].get_seq_length()

    def get_mask_sizes(self, query: int | torch.Tensor, layer_idx: int = 0) -> tuple[int, int]:
        return self.parts[0].get_mask_sizes(query)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held."""
        return sum(part.nbytes for part in self.parts)

    def saved(self) -> Callable[[], None]:
        """Goes back to the state as it is now."""
        back = [part.saved() for part in self.parts]

        def restore() -> None:
            for part in back:
                part()

        return restore
