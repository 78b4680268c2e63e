"""Cells that processes died on: after some deaths without progress a cell fails, and the others go on.

The host's out-of-memory killer ends a process without a word. What remains is that `run.json` says of a cell that it
was begun, with as many records as it has now.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.records.open_run import OpenRun
from evals.run.grid import Cell

MOST_DEATHS = 2
"""Where one process runs all cells."""


class Begun:
    """Notes in the states of cells that they are at work; who notes also saves.

    most_deaths: in a row without a record, before a cell fails.
    """

    def __init__(self, store: OpenRun, most_deaths: int = MOST_DEATHS) -> None:
        self.store = store
        self.most_deaths = most_deaths

    @property
    def reason(self) -> str:
        """Why a deadly cell failed."""
        often = {2: "twice", 3: "three times"}.get(self.most_deaths, f"{self.most_deaths} times")
        return (
            f"The process was killed {often} while it worked on this cell, as the host does when its memory runs out: "
            "choose a shorter --length, a smaller --batch-size or a machine with more memory; the same command tries "
            "the cell again."
        )

    def deadly(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those of the cells on which that many processes died; they count as not begun after this."""
        found = [cell for cell in cells if self._deaths(cell) >= self.most_deaths]
        self.survived(found)
        return found

    def start(self, cells: Sequence[Cell]) -> None:
        """Note before the work that could be deadly."""
        for cell in cells:
            state = self.store.meta.cells[cell.id]
            state.begun, state.begun_records = self._deaths(cell) + 1, self.store.count(cell.id)

    def undo(self, cells: Sequence[Cell]) -> None:
        """The preparation for the cells is over, which proves nothing about the cells themselves."""
        for cell in cells:
            state = self.store.meta.cells[cell.id]
            state.begun = max(state.begun - 1, 0)

    def survived(self, cells: Sequence[Cell]) -> None:
        """The work is over (done, failed, or stopped by the user), and the process is alive."""
        for cell in cells:
            state = self.store.meta.cells[cell.id]
            state.begun = state.begun_records = 0

    def _deaths(self, cell: Cell) -> int:
        """Deaths in a row without a record in between."""
        state = self.store.meta.cells[cell.id]
        return state.begun if self.store.count(cell.id) <= state.begun_records else 0
