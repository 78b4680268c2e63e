"""Rows of a budget of fine chunks that is kept to while blocks of chunks come in, not only at the end.

Every chunk keeps its coarse entries. What makes a chunk fine is kept as long as it may be among the best of its row, so
that no more than a block is held beside what stays.
"""

from __future__ import annotations

import torch

from sharedllm.chunk_rows import ChunkRows


class Contest:
    """Which chunks may yet be among the `budget` best of their row, while their scores come in.

    A chunk leaves once `budget` others of its row score higher. Equal scores stay, so that the choice at the end is the
    one among all chunks. rows: those that have not left, increasing, numbered through a batch (B, chunks).
    """

    def __init__(self, shape: torch.Size, budget: int) -> None:
        self._shape, self._budget = shape, budget
        self._scores: torch.Tensor | None = None
        self.rows: torch.Tensor | None = None

    def add(self, rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Which stay, as indices into those that had not left and, after them, the new rows (new,)."""
        if self._scores is None or self.rows is None:
            self._scores, self.rows = scores.new_full(self._shape, -torch.inf), rows[:0]
        self._scores.view(-1).index_copy_(0, rows, scores)
        least = self._scores.topk(self._budget, dim=1).values[:, -1]
        rows = torch.cat([self.rows, rows])
        stay = ~(self._scores.view(-1)[rows] < least[rows // self._shape[1]])
        self.rows = rows[stay]
        return stay.nonzero()[:, 0]


class FineRows:
    """Entries (chunks, entries, ...) of a layer from blocks that follow each other: `coarse` ones of every chunk, and
    `extra` ones of those that a `Contest` keeps."""

    def __init__(self, rows: ChunkRows, coarse: torch.Tensor, extra: torch.Tensor, device: torch.device) -> None:
        """coarse, extra: entries of a chunk (`entry_budget.columns`). device: of what is kept, as that of `rows`."""
        self._coarse, self._columns, self._device = rows, (coarse, extra), device
        self._fine: torch.Tensor | None = None

    def add(self, block: torch.Tensor, stay: torch.Tensor) -> None:
        """Append a block. stay: what `Contest.add` says of it."""
        coarse, extra = (block.index_select(1, x.to(block.device)) for x in self._columns)
        self._coarse.add(coarse)
        extra = extra.to(self._device)
        held = extra if self._fine is None else torch.cat([self._fine, extra])
        self._fine = held.index_select(0, stay.to(held.device))

    def take(self, rows: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """The entries of `entry_budget.within`, (B, kept, ...), which this object then forgets.

        rows: of the contest. fine: (B, chunks), as many in each row. A chunk that never came has zeros.
        """
        chosen = fine.flatten().nonzero()[:, 0]
        here = torch.isin(chosen, rows)
        coarse, held, self._fine = self._coarse.take(), self._fine, None
        assert coarse is not None
        assert held is not None
        at, of = (x.to(held.device) for x in (here.nonzero()[:, 0], torch.searchsorted(rows, chosen[here])))
        extra = held.new_zeros(len(chosen), *held.shape[1:]).index_copy(0, at, held.index_select(0, of))
        parts = (torch.unflatten(x, 0, (len(fine), -1)).flatten(1, 2) for x in (coarse, extra))
        return torch.cat(list(parts), 1)
