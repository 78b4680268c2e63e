"""The plan of a run in `run.json`, so that its report can put the measured time beside the expected one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.records.json import Json
from evals.records.models import RunMeta
from evals.run.devices import this_device
from evals.run.estimate import Estimate, estimate
from evals.run.grid import Cell
from evals.run.spec import RunSpec


def _kept(meta: RunMeta, found: Estimate) -> Json:
    """Factors of models that only earlier commands of the run named."""
    factors: Json = meta.plan.get("factors", {})
    return {model: factor for model, factor in factors.items() if model not in found.models}


def record_plan(meta: RunMeta, cells: Sequence[Cell], spec: RunSpec, earlier: Sequence[Path] = ()) -> None:
    """Note the seconds that each cell should take on this device. A pass that is complete keeps its own."""
    found = estimate(cells, spec, this_device(spec.device), spec.dtype, earlier)
    meta.plan = {
        "device": found.device.name,
        "dtype": spec.dtype,
        "factors": {**_kept(meta, found), **found.factors},
        "assumes": found.assumes,
    }
    for cell, seconds in zip(cells, found.seconds, strict=True):
        state = meta.cells.setdefault(cell.id, cell.state())
        if state.planned_s is None or state.status != "ok" or not state.covers(spec.limit):
            state.planned_s = seconds
