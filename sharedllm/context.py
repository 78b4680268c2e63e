"""The compressed context: what the upper model reads of what the lower model encoded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch


class LayerContext(NamedTuple):
    """What one cross-attention reads: see CompressedContext. Tensors alone, so that all layers compile to one graph."""

    key: torch.Tensor
    value: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor | None


@dataclass
class CompressedContext:
    """Keys and values of every injection layer, computed once per (context, query) and read by every token.

    keys, values: one tensor (B, kv, entries, d) an injection layer; keys are rotated already.
    query_rotation: cos and sin (B, 1, 1, d) of the position that all queries take.
    mask: (B, entries) of valid entries, None where all are valid.
    num_chunks: (B,) chunks of each row.
    path: (B, chunks, searched levels), True where the right half was expanded; None without a search.
    fine: (B, chunks), True where the leaves kept their own ratio; None where all did.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    query_rotation: tuple[torch.Tensor, torch.Tensor]
    num_chunks: torch.Tensor
    mask: torch.Tensor | None = None
    path: torch.Tensor | None = field(default=None, repr=False)
    fine: torch.Tensor | None = field(default=None, repr=False)

    def layer(self, index: int) -> LayerContext:
        """The part that the cross-attention number `index` reads."""
        return LayerContext(self.keys[index], self.values[index], *self.query_rotation, self.mask)

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
        cos, sin = self.query_rotation
        rows = [t.repeat_interleave(times, 0) for t in (cos, sin, self.num_chunks)]
        return replace(
            self,
            keys=[k.repeat_interleave(times, 0) for k in self.keys],
            values=[v.repeat_interleave(times, 0) for v in self.values],
            query_rotation=(rows[0], rows[1]),
            num_chunks=rows[2],
            mask=None if self.mask is None else self.mask.repeat_interleave(times, 0),
            path=None if self.path is None else self.path.repeat_interleave(times, 0),
            fine=None if self.fine is None else self.fine.repeat_interleave(times, 0),
        )
