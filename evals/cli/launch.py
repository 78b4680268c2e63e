"""From a specification to a finished run: plan, check, execute, report, and what the terminal shows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from rich import box
from rich.console import Console
from rich.table import Table

from evals.errors import UserError
from evals.records.store import Run, StoreError
from evals.run.dry_run import Planned, planned
from evals.run.engine import Engine, Spent
from evals.run.environment import environment
from evals.run.grid import Cell, check, digest, plan
from evals.run.progress import Progress, beyond_window
from evals.run.spec import RunSpec

GIB = 1 << 30
RUNS = Path("runs")


def dry_run(spec: RunSpec, output: Path | None, out: Console) -> int:
    """Print the plan; nothing is loaded, fetched or written."""
    rows = planned(plan(spec), spec.limit)
    out.print(_plan_table(rows))
    cells: list[dict[str, Any]] = [
        {
            "model": row.cell.model.name,
            "task": row.cell.task.name,
            "length": row.cell.length,
            "status": "planned",
            "metrics": {},
            "n": row.samples,
            "tokens": row.tokens,
            "weight_bytes": row.weight_bytes,
            "dense_kv_bytes": row.kv_bytes,
        }
        for row in rows
    ]
    _last_line(out, {"run": str(output) if output else None, "cells": cells, "failed": 0})
    return 0


def execute(spec: RunSpec, output: Path | None, command: Sequence[str], out: Console, err: Console) -> int:
    """Run the grid, or go on with it. Returns the exit code of the command line contract."""
    begin = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()  # there is one bar: that of the run
    cells = plan(spec)
    check(cells)
    planned_s = time.perf_counter() - begin
    key = digest({"cells": sorted(cell.id for cell in cells), "device": spec.device})
    folder = output or RUNS / key[:12]
    header = {
        "command": list(command),
        "spec": spec.model_dump(mode="json"),
        "environment": environment(spec.device),
    }
    with Run(folder, key, header) as run:
        with Progress(cells, err) as progress:
            progress.log(f"{len(cells)} cells into {folder} on {spec.device}, {spec.dtype}, {_kernel(spec)}")
            engine = Engine(run, spec, progress, Spent(load_s=planned_s))
            engine.execute(cells)
        report_begin = time.perf_counter()
        summary, problem = _report(folder) if run.done or run.perf else ({}, None)
        end = time.perf_counter()
        timing = _timing(engine.spent, wall_s=end - begin, report_s=end - report_begin)
        run.meta.setdefault("timing", []).append(timing)
        try:
            run.save()
        except StoreError as error:
            problem = error
        states = {cell.id: run.meta["cells"][cell.id] for cell in cells}
    rows = _outcome(cells, states, summary)
    out.print(_table(rows))
    _closing(err, folder, timing, rows)
    failed = [state for state in states.values() if state["status"] == "failed"]
    _last_line(out, {"run": str(folder), "cells": rows, "failed": len(failed)})
    if problem:
        raise problem
    return exit_code(list(states.values()))


def exit_code(states: Sequence[dict[str, Any]]) -> int:
    """0: every cell ran or hit out of memory. 1: some cell failed. 2: none could run, as the input was bad."""
    failed = [state for state in states if state["status"] == "failed"]
    if not failed:
        return 0
    return 2 if len(failed) == len(states) and all(state.get("bad_input") for state in failed) else 1


def _kernel(spec: RunSpec) -> str:
    return f"{spec.attn} ({', '.join(spec.kernels)})" if spec.kernels else spec.attn


def _timing(spent: Spent, wall_s: float, report_s: float) -> dict[str, float]:
    """Where the wall time went. Loading is the import of methods and the fetching and reading of weights; the
    harness's share is all that is neither loading, model nor report.
    """
    harness_s = wall_s - spent.load_s - spent.model_s - report_s
    return {
        "wall_s": wall_s,
        "load_s": spent.load_s,
        "model_s": spent.model_s,
        "report_s": report_s,
        "harness_s": harness_s,
        "harness_share": harness_s / wall_s,
    }


def _report(folder: Path) -> tuple[dict[str, dict[str, Any]], UserError | None]:
    """Write the report; return the summary of each cell, and why the report could not be written if so."""
    from evals import report  # pandas, scipy and matplotlib take seconds: not before they are needed
    from evals.report.frames import Data
    from evals.report.load import load
    from evals.report.summary import records

    run, problem = load(folder), None
    try:
        summary = report.write(run, folder)
    except UserError as error:
        summary, problem = Data.of(run).summary, error
    return {row["cell"]: row for row in records(summary)}, problem


def _outcome(cells: Sequence[Cell], states: dict[str, Any], summary: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a cell: its state, and from the summary what was measured."""
    rows = []
    for cell in cells:
        state, row = states[cell.id], summary.get(cell.id, {})
        rows.append(
            {
                "model": cell.model.name,
                "task": cell.task.name,
                "length": cell.length,
                "n": 0,
                "metrics": {},
                "metric": state["metric"],
                "cell": cell.id,
                **row,
                "status": state["status"],  # the engine's word: a summary only knows what was measured
                "error": state["error"],
                "max_context": state["max_context"],
                "beyond_window": beyond_window(state),
            }
        )
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = _new_table("model", "task", "length", "status", "n", "score", "95 % interval", "also")
    for name in ("TTFT s", "ms/token", "peak GiB", "state GiB"):
        table.add_column(name, justify="right")
    for row in rows:
        metrics, first = row["metrics"], row["metric"]
        low, high = row.get("intervals", {}).get(first, (None, None))
        table.add_row(
            row["model"],
            row["task"],
            str(row["length"] or ""),
            row["status"] + (", beyond window" if row["beyond_window"] else ""),
            str(row["n"]),
            f"{first} {_number(metrics[first])}" if first in metrics else "",
            f"{_number(low)} to {_number(high)}" if low is not None and low != high else "",
            ", ".join(f"{name} {_number(metrics[name])}" for name in metrics if name != first and "/" not in name),
            *(_number(row.get(name)) for name in ("ttft_s", "tpot_ms", "peak_gib", "state_gib")),
        )
    return table


def _plan_table(rows: Sequence[Planned]) -> Table:
    table = _new_table("model", "task", "length", "samples", "tokens", "weights GiB", "dense KV GiB")
    for row in rows:
        table.add_row(
            row.cell.model.name,
            row.cell.task.name,
            str(row.cell.length or ""),
            "all" if row.samples is None else f"up to {row.samples}",
            "" if row.tokens is None else f"{row.tokens:,}",
            "" if row.weight_bytes is None else f"{row.weight_bytes / GIB:.2f}",
            "" if row.kv_bytes is None else f"{row.kv_bytes / GIB:.2f}",
        )
    return table


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("model", "task", "status", "also") else "right")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _closing(err: Console, folder: Path, timing: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
    failures = dict.fromkeys(row["error"] for row in rows if row["status"] == "failed")
    for sentence in failures:
        err.print(f"Failed: {sentence}", markup=False, highlight=False, soft_wrap=True)
    err.print(
        f"{timing['wall_s']:.1f} s: models {timing['model_s']:.1f} s, loading {timing['load_s']:.1f} s, "
        f"report {timing['report_s']:.1f} s, harness {timing['harness_s']:.1f} s "
        f"({timing['harness_share']:.1%}). Results: {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _last_line(out: Console, value: dict[str, Any]) -> None:
    """One JSON object on the last line, whatever the width; numbers that JSON does not know become null."""
    out.file.write(json.dumps(_finite(value), ensure_ascii=False) + "\n")
    out.file.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
