"""Cells that a process died on: after the second death without progress a cell fails, and the others go on.

The host's out-of-memory killer ends a process without a word. What remains is that `run.json` says of a cell that it
was begun, with as many records as it has now.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.records.store import RunStore
from evals.run.grid import Cell

MOST_DEATHS = 2
REASON = (
    "The process was killed twice while it worked on this cell, as the host does when its memory runs out: choose a "
    "shorter --length, a smaller --batch-size or a machine with more memory; the same command tries the cell again."
)


class Begun:
    """Notes on the disk which cells are at work."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    def deadly(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those of the cells on which the process died twice without progress; they count as not begun after this."""
        found = [cell for cell in cells if self._deaths(cell) >= MOST_DEATHS]
        self._end(found)
        return found

    def start(self, cells: Sequence[Cell]) -> None:
        """Note before the work that could be deadly."""
        for cell in cells:
            state = self.store.meta.cells[cell.id]
            state.begun, state.begun_records = self._deaths(cell) + 1, self._records(cell)
        self.store.save()

    def undo(self, cells: Sequence[Cell]) -> None:
        """The preparation for the cells is over, which proves nothing about the cells themselves."""
        for cell in cells:
            state = self.store.meta.cells[cell.id]
            state.begun = max(state.begun - 1, 0)
        self.store.save()

    def survived(self, cells: Sequence[Cell]) -> None:
        """The work is over (done, failed, or stopped by the user), and the process is alive."""
        if self._end(cells):
            self.store.save()

    def _end(self, cells: Sequence[Cell]) -> bool:
        states = [self.store.meta.cells[cell.id] for cell in cells]
        begun = [state for state in states if state.begun]
        for state in begun:
            state.begun = state.begun_records = 0
        return bool(begun)

    def _deaths(self, cell: Cell) -> int:
        """Deaths in a row without a record in between."""
        state = self.store.meta.cells[cell.id]
        return state.begun if self._records(cell) <= state.begun_records else 0

    def _records(self, cell: Cell) -> int:
        return len(self.store.samples.get(cell.id, ())) + (cell.id in self.store.perf)
