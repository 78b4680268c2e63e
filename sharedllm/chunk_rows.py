"""A tensor with one row a chunk that is written block by block, so that no block is held beside the whole."""

from __future__ import annotations

import torch


class ChunkRows:
    """Rows (rows, ...) from blocks (chunks, ...) that follow each other.

    rows: of the whole. at: (chunks,) the row of each chunk, where some rows have none and stay zero. device: of the
    whole; host memory is pinned for blocks of a GPU. With gradients the blocks are joined at the end: a write into the
    whole would copy the whole's gradient in the backward pass, once for each block.
    """

    def __init__(self, rows: int, at: torch.Tensor | None, device: torch.device) -> None:
        self._rows, self._at, self._device = rows, at, device
        self._filled = 0
        self._whole: torch.Tensor | None = None
        self._parts: list[torch.Tensor] = []

    def add(self, block: torch.Tensor) -> None:
        """Append a block."""
        rows = slice(self._filled, self._filled + len(block))
        self._filled = rows.stop
        alone = self._at is None and len(block) == self._rows and block.device == self._device
        if alone or block.requires_grad:
            self._parts.append(block.to(self._device))
            return
        if self._whole is None:
            make = torch.empty if self._at is None else torch.zeros
            pinned = block.is_cuda and self._device.type == "cpu"
            shape = self._rows, *block.shape[1:]
            self._whole = make(shape, dtype=block.dtype, device=self._device, pin_memory=pinned)
        if self._at is None:
            self._whole[rows] = block
        else:
            self._whole.index_copy_(0, self._at[rows].to(self._device), block.to(self._device))

    def take(self) -> torch.Tensor | None:
        """The whole, which this object then forgets; None without a block."""
        whole, parts = self._whole, self._parts
        self._whole, self._parts = None, []
        if not parts:
            return whole
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._at is None:
            return joined
        return joined.new_zeros(self._rows, *joined.shape[1:]).index_copy(0, self._at.to(joined.device), joined)
