"""The planned time of a run beside the measured one."""

from __future__ import annotations

import pandas as pd

from evals.records.seconds import cold_seconds
from evals.report.data import Data
from evals.report.tables import Table


def plan_table(data: Data) -> Table | None:
    """One row per cell that was planned and is complete, then their sum; None for a run without a plan.

    Measured are the requests: reading, answering, and the cold pass with its warm-up.
    """
    rows: list[tuple[str, str, int | None, float, float]] = []
    for cell, state in data.run.cells.items():
        perf = data.run.perf.get(cell)
        measured = data.run.digest(cell).seconds + (cold_seconds(perf) if perf else 0.0)
        if state.planned_s and state.status == "ok" and measured:
            rows.append((state.model, state.task, state.length, state.planned_s, measured))
    if not rows:
        return None
    whole = ("all of these", "", None, sum(row[3] for row in rows), sum(row[4] for row in rows))
    frame = pd.DataFrame(
        [[*row, row[4] / row[3]] for row in (*rows, whole)],
        columns=["model", "task", "length", "planned s", "measured s", "measured / planned"],
        dtype=object,
    )
    plan = data.run.meta.plan
    where = f" for {plan['device']} in {plan['dtype']}" if "device" in plan and "dtype" in plan else ""
    made = f"This was planned{where} before the run."
    return Table("plan", "Planned and measured time", frame, [made, *map(str, plan.get("assumes", []))])
