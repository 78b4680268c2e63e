"""From samples to one row per cell: the task's own metrics with intervals, then the cost."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from evals.errors import UserError
from evals.records.models import CellState, PerfRecord
from evals.report.load import Run
from evals.report.stats import Interval

GIB = 1 << 30
FIRST = ["model", "task", "length", "status", "n"]
COST = ["ttft_s", "read_s", "query_s", "tpot_ms", "tpot_p95_ms", "peak_gib", "state_gib"]
TOO_LONG = ["cut", "skipped"]
LAST = [*TOO_LONG, "metric", "higher_is_better", "groups", "gain_n", "tests_context", "max_context", "unsteady", "cell"]


RESERVED = {*FIRST, *COST, *LAST}
"""Columns that no metric may be named after; the ends of an interval are others."""


def summarize(run: Run) -> pd.DataFrame:
    """One row per cell: FIRST, each metric with `_low` and `_high`, COST, LAST. Of questions that were asked with
    several contexts too: `METRIC_other`, `METRIC_none` and `gain` (`evals.report.gain`).

    status: the cell's state in the run (`ok`, `oom`, `failed`, `pending`); `oom` also if only the cold pass
    ran out of memory. n: samples whose metrics are all finite; only these count. groups: clusters among them.
    cut, skipped: prompts longer than their budget, which were cut, or not asked.
    unsteady: whether repeats of the time differ so much that the machine must have been busy. False does not mean that
    it was idle: repeats that are all slowed alike agree.
    gain_n: samples that the gain rests on. tests_context: whether the score without a context is another one.
    """
    rows = [_row(run, cell, record) for cell, record in run.cells.items()]
    found = list(dict.fromkeys(name for row in rows for name in row))
    metrics = [name for name in found if name not in RESERVED]
    frame = pd.DataFrame(rows, columns=[*FIRST, *metrics, *COST, *LAST])
    whole = dict.fromkeys(("length", "max_context", "n", "groups", "gain_n", *TOO_LONG), "Int64")
    return frame.astype({**whole, "tests_context": "boolean", "unsteady": "boolean"})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame as JSON: model, task, length, status, n, metrics, intervals and cost of each cell, absent
    values left out. measured: where the numbers are those of a request, so that no interval is missing.
    """
    metrics = metric_names(frame)
    result = []
    for row in frame.to_dict("records"):
        present = {k: v for k, v in row.items() if not _absent(v)}
        result.append(
            {
                **{k: present.get(k) for k in FIRST},
                "metrics": {k: present[k] for k in metrics if k in present},
                "intervals": {k: [present[f"{k}_low"], present[f"{k}_high"]] for k in metrics if f"{k}_low" in present},
                **{k: present[k] for k in [*COST, *LAST] if k in present},
                **({"measured": True} if is_measured(present["task"]) else {}),
            }
        )
    return result


def is_measured(task: str) -> bool:
    """Whether a task measures what one request costs: its numbers are no means over samples."""
    return task.startswith("efficiency")


def metric_names(frame: pd.DataFrame) -> list[str]:
    """Columns that hold metrics: those that come with an interval."""
    return [c for c in frame.columns if f"{c}_low" in frame.columns]


def score(row: Any) -> Interval:
    """The first metric of a summary row with its interval; NaN where the cell has none."""
    name = row["metric"]
    if f"{name}_low" not in row or pd.isna(row[name]):
        return Interval(float("nan"))
    return Interval(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]))


def _row(run: Run, cell: str, state: CellState) -> dict[str, Any]:
    digest, perf = run.digest(cell), run.perf.get(cell)
    row: dict[str, Any] = {
        "model": state.model,
        "task": state.task,
        "length": state.length,
        "status": _status(state, perf),
        "n": digest.n,
    }
    metrics = {**digest.intervals, **digest.use.metrics}
    taken = RESERVED | {f"{name}_{side}" for name in metrics for side in ("low", "high")}
    for name, found in metrics.items():
        if name in taken:
            raise UserError(
                f"The cell {cell} of {run.path} ({state.task}) has a metric '{name}', a column of every report."
            )
        row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
    if perf:
        row |= {name: getattr(perf, name) for name in COST if not name.endswith("_gib")}
        row["unsteady"] = perf.unsteady if perf.ttft_low_s is not None else None
        row |= {f"{name}_gib": size / GIB for name in ("peak", "state") if (size := getattr(perf, f"{name}_bytes"))}
    row |= {name: getattr(state, name) for name in ("metric", "higher_is_better", "max_context")}
    if digest.use.pairs:
        row["gain_n"] = digest.use.pairs
    if digest.total and not is_measured(state.task):
        row |= {name: getattr(digest, name) for name in TOO_LONG}
    return row | {"groups": digest.groups, "tests_context": digest.use.tested, "cell": cell}


def _status(state: CellState, perf: PerfRecord | None) -> str:
    return perf.status if state.status == "ok" and perf else state.status


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
