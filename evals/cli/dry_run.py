"""`--dry-run`: the plan of a run, and what it is expected to take."""

from __future__ import annotations

from pathlib import Path

from evals.cli.pipes import PipeConsole
from evals.cli.terminal import last_line, plan_times, show_plan
from evals.cli.way import Way
from evals.records.json import Json
from evals.records.read import RUN_FILE
from evals.records.shards import shards_below
from evals.run.checks.fit import check_fit
from evals.run.checks.inputs import check_here
from evals.run.checks.prompts import check_prompts
from evals.run.checks.sampling import check_sampling
from evals.run.dry_run import planned
from evals.run.grid import plan
from evals.run.shards import Split
from evals.run.spec import RunSpec


def dry_run(spec: RunSpec, way: Way, out: PipeConsole) -> int:
    """Print the plan; nothing is loaded, fetched or written.

    Without `way.earlier` the run in `way.output`, if there is one, corrects the estimate.
    """
    cells = plan(spec)
    check_here(cells)
    check_sampling(cells, spec.limit)
    check_fit(cells)
    check_prompts(cells)
    if way.shard is not None:
        cells = [cells[at] for at in Split.of(cells, spec, way.shard.count).places[way.shard.index - 1]]
    found = planned(cells, spec, earlier_runs(way.earlier, way.output))
    rows, time_s = found.rows, found.time
    show_plan(out, rows, time_s)
    plan_times(out, time_s)
    entries: list[Json] = [
        {
            "model": row.cell.model.name,
            "task": row.cell.task.name,
            "length": row.cell.length,
            "status": "planned",
            "metrics": {},
            "n": row.samples,
            "tokens": row.tokens,
            "weight_bytes": row.weight_bytes,
            "state_bytes": row.state_bytes,
            "dense_kv_bytes": row.kv_bytes,
            "planned_s": row.seconds,
        }
        for row in rows
    ]
    estimated = {
        "gpu": time_s.device.name,
        "dtype": time_s.dtype,
        "gpu_hours": time_s.hours,
        "wall_hours": {str(count): seconds / 3600 for count, seconds in time_s.walls().items()},
        "assumes": time_s.assumes,
    }
    whole = {"run": str(way.output) if way.output else None, "cells": entries, "failed": 0, "plan": estimated}
    last_line(out, whole, "Nothing was run: leave --dry-run out to start.", way.talk.json)
    return 0


def earlier_runs(named: Path | None, output: Path | None) -> list[Path]:
    """The runs that an estimate learns from."""
    if named is not None:
        return shards_below(named) or [named]
    if output is None:
        return []
    return [output] if (output / RUN_FILE).exists() else shards_below(output)
