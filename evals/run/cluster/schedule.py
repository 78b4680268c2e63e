"""Which cells a free worker gets next: the longest first, of the model that it holds where that has any left."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evals.measure.task import MeasuredTask
from evals.records.models import CellState
from evals.records.open_run import OpenRun
from evals.run.grid import Cell


@dataclass(frozen=True)
class Job:
    """Cells of one model that one worker runs in one go, with what was recorded of them so far.

    One cell, or all measured cells of a task, which load their model once and stop at the first length without memory.
    cost: expected seconds.
    """

    cells: tuple[Cell, ...]
    cost: float
    states: dict[str, CellState] = field(default_factory=dict)
    samples: dict[str, set[str]] = field(default_factory=dict)
    perf: set[str] = field(default_factory=set)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """Name of the model that runs the cells."""
        return self.cells[0].model.name

    @property
    def gpus(self) -> int:
        """GPUs that the model is spread over."""
        return self.cells[0].model.preset.gpus

    def without(self, done: set[str]) -> Job | None:
        """The job without cells that have their state; None where nothing is left."""
        cells = tuple(cell for cell in self.cells if cell.id not in done)
        return replace(self, cells=cells) if cells else None

    def as_recorded(self, store: OpenRun) -> Job:
        """The job with what the run says about its cells now. Who counts deaths is the driver: `begun` stays there."""
        ids = [cell.id for cell in self.cells]
        fresh = {"begun": 0, "begun_records": 0}
        return replace(
            self,
            states={cell: store.meta.cells[cell].model_copy(update=fresh) for cell in ids},
            samples={cell: set(store.samples[cell]) for cell in ids if cell in store.samples},
            perf=store.perf & set(ids),
            failed={cell: dict(store.failed[cell]) for cell in ids if cell in store.failed},
        )


def jobs(cells: Iterable[Cell], planned: Mapping[str, CellState]) -> list[Job]:
    """Cells as jobs. planned: the state of each cell, with the seconds that it should take."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        measured = isinstance(cell.task.task, MeasuredTask)
        groups.setdefault((cell.model.name, cell.task.name if measured else cell.id), []).append(cell)
    return [Job(tuple(group), sum(planned[cell.id].planned_s or 0.0 for cell in group)) for group in groups.values()]


class Schedule:
    """Jobs that no worker has yet."""

    def __init__(self, waiting: Sequence[Job]) -> None:
        self._waiting: dict[str, list[Job]] = {}
        for job in waiting:
            self.add(job)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def sizes(self) -> Counter[int]:
        """Jobs that wait, by the GPUs that each needs."""
        found: Counter[int] = Counter()
        for of_model in self._waiting.values():
            found[of_model[0].gpus] += len(of_model)
        return found

    def add(self, job: Job) -> None:
        """A new job, or one whose worker is gone."""
        insort(self._waiting.setdefault(job.model, []), job, key=lambda job: job.cost)

    def take(self, held: str | None, running: Iterable[str], gpus: int = 1) -> Job | None:
        """The next job for a worker with that many GPUs that holds a model. running: models of the jobs that run now.

        A worker that must load takes the model with the most work left for each worker that it would then have.
        """
        fitting = {name: of_model for name, of_model in self._waiting.items() if of_model[0].gpus == gpus}
        if held not in fitting:
            workers = Counter(running)
            left = {name: sum(job.cost for job in of_model) for name, of_model in fitting.items()}
            held = max(left, key=lambda name: left[name] / (1 + workers[name]), default=None)
        if held is None:
            return None
        job = self._waiting[held].pop()
        if not self._waiting[held]:
            del self._waiting[held]
        return job
