"""The run and the progress as a worker sees them: everything goes to the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from evals.records.lines import AnyRecord
from evals.records.models import CellState, RunMeta
from evals.records.open_run import OpenRun
from evals.run.cluster.messages import Appended, Began, Finished, Forgot, Logged, Message, Saved, Stepped
from evals.run.cluster.schedule import Job
from evals.run.grid import Cell


class Relay(OpenRun):
    """Takes what the engine does and hands it on. Knows of the run what the driver said about the job at hand."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__()
        self.meta = RunMeta(created="1970-01-01", models={}, cells={})
        self._send = send

    def take(self, job: Job) -> None:
        """Forget the last job, and know what was recorded of this one."""
        self.clear()
        self.meta.cells.clear()
        self.meta.models.clear()
        self.meta.cells.update(job.states)
        self.samples.update(job.samples)
        self.perf |= job.perf
        self.failed.update(job.failed)

    def append(self, *records: AnyRecord) -> None:
        for record in records:
            self.note(record)
        self._send(Appended(records))

    def forget(self, cells: set[str]) -> None:
        for cell in cells:
            self.samples.pop(cell, None)
            self.failed.pop(cell, None)
        self.perf -= cells
        self._send(Forgot(frozenset(cells)))

    def save(self) -> None:
        self._send(Saved(self._states(self.meta.cells), dict(self.meta.models)))

    def save_cells(self, *cells: str) -> None:
        self._send(Saved(self._states(cells), {}))

    def _states(self, cells: Iterable[str]) -> dict[str, CellState]:
        return {cell: self.meta.cells[cell].model_copy() for cell in cells}

    def begin(self, cell: Cell, steps: int) -> None:
        self._send(Began(cell.id, steps))

    def step(self, cell: Cell) -> None:
        self._send(Stepped(cell.id))

    def finish(self, cell: Cell, state: CellState) -> None:
        self._send(Finished(cell.id, state.model_copy()))

    def log(self, text: str) -> None:
        self._send(Logged(text))
