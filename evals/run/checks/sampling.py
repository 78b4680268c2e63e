"""Whether the samples of a run can have what its settings ask for, known before one of them is made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from evals.run.checks.together import all_of
from evals.run.grid import Cell
from evals.run.work import sample_count
from evals.tasks.base import Task
from evals.tasks.settings.controls import check_controls
from evals.tasks.settings.seeds import check_seeds, seeds_of


def check_sampling(cells: Sequence[Cell], limit: int | None) -> None:
    """Raises one UserError with a sentence for each task that cannot be asked with its seeds or its controls.

    limit: samples of a cell, at most.
    """
    tasks = {cell.task.name: cell.task.task for cell in cells}.values()
    all_of(partial(_check, task, limit) for task in tasks if isinstance(task, Task))


def _check(task: Task, limit: int | None) -> None:
    check_seeds(task, limit)
    alone = seeds_of(task.settings) == 1  # another seed has contexts of its own
    check_controls(task, sample_count(task, limit) if alone else None)
