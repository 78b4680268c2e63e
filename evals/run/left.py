"""What of a run is left to do."""

from __future__ import annotations

from collections.abc import Sequence

from evals.measure.task import MeasuredTask
from evals.records.open_run import OpenRun
from evals.records.read import DAMAGED_FILE
from evals.run.grid import Cell
from evals.run.progress import Watcher
from evals.run.spec import RunSpec


def left_to_do(cells: Sequence[Cell], store: OpenRun, spec: RunSpec, progress: Watcher) -> list[Cell]:
    """Enter cells into `run.json`; return those that are not complete. The others are reported as finished."""
    for cell in cells:
        store.meta.cells.setdefault(cell.id, cell.state())
    store.save()
    if store.healed:
        progress.log(
            f"Damaged and doubled records were set aside in {DAMAGED_FILE} ({store.healed} in all); what they "
            "held is measured again."
        )
    todo = []
    for cell in cells:
        if is_complete(cell, store, spec):
            progress.finish(cell, store.meta.cells[cell.id])
        else:
            todo.append(cell)
    return todo


def is_complete(cell: Cell, store: OpenRun, spec: RunSpec) -> bool:
    """Whether nothing is left to do for the cell: out of memory is an end, a failure is not.

    What `run.json` says counts only as far as the records are there.
    """
    state, measured = store.meta.cells[cell.id], cell.id in store.perf
    if state.status != "ok":
        return state.status == "oom" and measured
    whole = len(store.samples.get(cell.id, ())) >= (state.samples or 1)
    wanted = spec.perf or isinstance(cell.task.task, MeasuredTask)
    return state.covers(spec.limit) and whole and (measured or not wanted)
