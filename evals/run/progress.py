"""Progress on stderr: a bar with the time left on a terminal, one line per cell everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from evals.records.models import CellState
from evals.run.grid import Cell


def cell_name(cell: Cell) -> str:
    """How people see a cell: model, task and length."""
    return f"{cell.model.name} {cell.task.name}" + (f" {cell.length}" if cell.length else "")


def weight(cell: Cell) -> int:
    """Share of a cell in the time of a run: its tokens, since reading them is what takes the time."""
    return cell.length or 1


class Progress:
    """Follows a run. The bar counts tokens of cells, so that the time left is right for a grid of lengths."""

    def __init__(self, cells: Sequence[Cell], console: Console) -> None:
        self.console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._total = len(cells)
        self._finished = 0
        self._weight = 0
        self._task = self._bar.add_task("", total=sum(weight(cell) for cell in cells))
        self._step = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, cell: Cell, steps: int) -> None:
        """A cell starts; it will call `step` that often."""
        self._bar.update(self._task, description=f"[{self._finished + 1}/{self._total}] {cell_name(cell)}")
        self._step = weight(cell) / max(steps, 1)

    def step(self) -> None:
        self._bar.advance(self._task, self._step)

    def finish(self, cell: Cell, state: CellState) -> None:
        """A cell has its state: one line, with the reason where it failed."""
        self._finished += 1
        self._weight += weight(cell)
        self._bar.update(self._task, completed=self._weight)
        reason = f": {state.error}" if state.error else ""
        note = f" (beyond the model's window of {state.max_context})" if state.beyond_window else ""
        self.log(f"[{self._finished}/{self._total}] {cell_name(cell)}: {state.status}{note}{reason}")

    def log(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
