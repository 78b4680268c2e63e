"""Progress on stderr: a bar with the time left on a terminal, one line per cell everywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from evals.records.models import CellState
from evals.run.grid import Cell
from evals.safe_text import plain_text

LOG = logging.getLogger(__name__)
MOST_NAMED = 4
"""Cells at work that the bar names; of more it says how many there are."""


class Watcher(Protocol):
    """Who is told how far the cells are."""

    def begin(self, cell: Cell, steps: int) -> None:
        """A cell starts; it will call `step` that often."""

    def step(self, cell: Cell) -> None:
        """One request of the cell is done."""

    def finish(self, cell: Cell, state: CellState) -> None:
        """The cell has its state."""

    def log(self, text: str) -> None:
        """Something that a person should read."""


def cell_name(cell: Cell) -> str:
    """How people see a cell: model, task and length."""
    return f"{cell.model.name} {cell.task.name}" + (f" {cell.length}" if cell.length else "")


def weight(cell: Cell) -> int:
    """Share of a cell in the time of a run: its tokens, since reading them is what takes the time."""
    return cell.length or 1


class Progress:
    """Follows a run. The bar counts tokens of cells, so that the time left is right for a grid of lengths."""

    def __init__(
        self,
        cells: Sequence[Cell],
        console: Console,
        bar: bool = True,
        on_finish: Callable[[Cell, CellState], None] | None = None,
    ) -> None:
        """bar: whether to draw it, where the console is a terminal. on_finish: is told of each cell that has its state,
        those that were complete before included.
        """
        self._on_finish = on_finish
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (bar and console.is_terminal),
        )
        self._total = len(cells)
        self._finished = 0
        self._weight = 0.0
        self._task = self._bar.add_task("", total=sum(weight(cell) for cell in cells))
        self._at_work: dict[str, _AtWork] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, cell: Cell, steps: int, place: str = "") -> None:
        """A cell starts; it will call `step` that often. place: the worker that runs it, where there are several."""
        self._at_work[cell.id] = _AtWork(f"{place} {cell_name(cell)}".lstrip(), weight(cell), steps)
        self._show()

    def step(self, cell: Cell) -> None:
        """One request of a cell that has begun is done."""
        self._at_work[cell.id].done += 1
        self._show()

    def finish(self, cell: Cell, state: CellState) -> None:
        """A cell has its state: one line, with the reason where it failed."""
        self._finished += 1
        self._weight += weight(cell)
        self._at_work.pop(cell.id, None)
        self._show()
        reason = f": {state.error}" if state.error else ""
        note = f" (beyond the model's window of {state.max_context})" if state.beyond_window else ""
        level = logging.WARNING if state.status == "failed" else logging.INFO
        if self._on_finish:
            self._on_finish(cell, state)
        LOG.log(level, plain_text(f"[{self._finished}/{self._total}] {cell_name(cell)}: {state.status}{note}{reason}"))

    def drop(self, cell: Cell) -> None:
        """A cell is no longer at work, and has no state yet: its worker is gone."""
        self._at_work.pop(cell.id, None)
        self._show()

    def log(self, text: str) -> None:
        """A line above the bar."""
        LOG.info(plain_text(text))

    def _show(self) -> None:
        at_work = list(self._at_work.values())
        names = at_work[0].name if len(at_work) == 1 else ", ".join(map(str, at_work[:MOST_NAMED]))
        more = f" and {len(at_work) - MOST_NAMED} more" if len(at_work) > MOST_NAMED else ""
        first = min(self._finished + 1, self._total)
        count = f"{first}/{self._total}" if len(at_work) < 2 else f"{self._finished}/{self._total} done"
        self._bar.update(
            self._task,
            description=escape(f"[{count}] {names}{more}"),
            completed=self._weight + sum(cell.covered for cell in at_work),
        )


class _AtWork:
    """A cell that runs now."""

    def __init__(self, name: str, share: float, steps: int) -> None:
        self.name, self.share, self.steps, self.done = name, share, steps, 0

    @property
    def covered(self) -> float:
        return self.share * min(self.done / max(self.steps, 1), 1.0)

    def __str__(self) -> str:
        return f"{self.name} ({self.done} of {self.steps})"
