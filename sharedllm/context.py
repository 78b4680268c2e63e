"""The compressed context: what the upper model reads of what the lower model encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch


class LayerContext(NamedTuple):
    """What one layer reads: see CompressedContext. Tensors alone, so that all layers compile to one graph."""

    key: torch.Tensor
    value: torch.Tensor
    rotation: tuple[torch.Tensor, torch.Tensor] | None
    mask: torch.Tensor | None


@dataclass
class CompressedContext:
    """Keys and values of every injection layer, computed once per (context, query) and read by every token.

    keys, values: one tensor (B, kv, entries, d) an injection layer; keys are rotated already.
    query_rotation: cos and sin (B, 1, 1, d) of the position that all queries of a cross-attention take; None with joint
    attention, whose queries have the positions of the running text.
    mask: (B, entries) of valid entries, None where all are valid.
    num_chunks: (B,) chunks of each row.
    path: (B, chunks, searched levels), True where the right half was expanded; None without a search.
    fine: (B, chunks), True where the leaves kept their own ratio; None where all did.
    read_on: the device of each injection layer, where keys and values are in host memory and are brought there for
    every read; None where they are there.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    query_rotation: tuple[torch.Tensor, torch.Tensor] | None
    num_chunks: torch.Tensor
    mask: torch.Tensor | None = None
    path: torch.Tensor | None = field(default=None, repr=False)
    fine: torch.Tensor | None = field(default=None, repr=False)
    read_on: Sequence[torch.device] | None = field(default=None, repr=False)

    def layer(self, index: int) -> LayerContext:
        """The part that the reading layer number `index` reads, a copy on its device where the context is elsewhere."""
        key, value = self.keys[index], self.values[index]
        if self.read_on is not None:
            key, value = (x.to(self.read_on[index], non_blocking=True) for x in (key, value))
        return LayerContext(key, value, self.query_rotation, self.mask)

    @property
    def entries(self) -> int:
        """Compressed tokens per row."""
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def repeat(self, times: int) -> CompressedContext:
        """Every row `times` times, for several continuations of one context."""
        return self._each(lambda x: x.repeat_interleave(times, 0))

    def clone(self) -> CompressedContext:
        """A copy that shares no tensor with this."""
        return self._each(torch.clone)

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> CompressedContext:
        """Another context, of what `function` makes of each tensor."""
        rotation = self.query_rotation
        return replace(
            self,
            keys=list(map(function, self.keys)),
            values=list(map(function, self.values)),
            query_rotation=None if rotation is None else (function(rotation[0]), function(rotation[1])),
            num_chunks=function(self.num_chunks),
            mask=None if self.mask is None else function(self.mask),
            path=None if self.path is None else function(self.path),
            fine=None if self.fine is None else function(self.fine),
        )
