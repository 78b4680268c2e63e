"""What `sharedllm-eval` shows: the plan, the results, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.cli.pipes import PipeConsole
from evals.cli.tables import Column, fitted
from evals.records.json import Json, dumps
from evals.report.words import counted
from evals.run.dry_run import Planned
from evals.run.estimate import Estimate
from evals.safe_text import plain_line

GIB = 1 << 30
UNSTEADY = "~"
"""Stands before a time whose repeats disagree."""
BUSY = (
    f"{UNSTEADY}: repeats of this time differ much, so the machine was busy: measure it again. "
    f"A time without {UNSTEADY} may be disturbed too, if all its repeats were."
)


def show_results(out: PipeConsole, rows: Sequence[Json], elsewhere: str) -> None:
    """One row per cell: status, first metric with its interval, other metrics, costs.

    elsewhere: where the columns are that a narrow terminal has no room for.
    """
    _show(out, _result_columns(rows), elsewhere)
    if any(row.get("unsteady") for row in rows):
        out.write_line(BUSY)


def _result_columns(rows: Sequence[Json]) -> list[Column]:
    status = [_status(row) for row in rows]
    return [
        Column("model", [row["model"] for row in rows], left=True),
        Column("task", [row["task"] for row in rows], left=True),
        Column("length", [row["length"] or "" for row in rows]),
        Column("status", status, left=True, rank=4 if set(status) == {"ok"} else 0, least=10),
        Column("n", [row["n"] for row in rows], rank=5),
        Column("score", [_score(row) for row in rows]),
        Column("95 % interval", [_interval(row) for row in rows], rank=2),
        Column("also", [_others(row) for row in rows], left=True, rank=8, least=24),
        Column("TTFT s", [_time(row, "ttft_s") for row in rows], rank=1),
        Column("ms/token", [_time(row, "tpot_ms") for row in rows], rank=6),
        Column("peak GiB", [_number(row.get("peak_gib")) for row in rows], rank=3),
        Column("state GiB", [_number(row.get("state_gib")) for row in rows], rank=7),
    ]


def _status(row: Json) -> str:
    notes = [
        *(["beyond window"] if row["beyond_window"] else []),
        *(["context not tested"] if row.get("tests_context") is False else []),
        *(f"{row[kind]} rows {kind}" for kind in ("cut", "skipped") if row.get(kind)),
    ]
    return ", ".join([row["status"], *notes])


def _score(row: Json) -> str:
    first = row["metric"]
    return f"{first} {_number(row['metrics'][first])}" if first in row["metrics"] else ""


def _interval(row: Json) -> str:
    if row["metric"] not in row["metrics"] or row.get("measured"):
        return ""
    low, high = row.get("intervals", {}).get(row["metric"], (None, None))
    return "too few" if low is None else f"{_number(low)} to {_number(high)}"


def _others(row: Json) -> str:
    found = [name for name in row["metrics"] if name != row["metric"] and "/" not in name]
    return ", ".join(f"{name} {_number(row['metrics'][name])}" for name in found)


def _time(row: Json, name: str) -> str:
    return (UNSTEADY if row.get("unsteady") and name in row else "") + _number(row.get(name))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def show_plan(out: PipeConsole, rows: Sequence[Planned], time: Estimate) -> None:
    """One row per cell of a run that was not started, below the situation that memory and times are for."""
    sizes = [("weights GiB", "weight_bytes", 3), ("state GiB", "state_bytes", 1), ("dense KV GiB", "kv_bytes", 2)]
    columns = [
        Column("model", [row.cell.model.name for row in rows], left=True),
        Column("task", [row.cell.task.name for row in rows], left=True),
        Column("length", [row.cell.length or "" for row in rows]),
        Column("samples", ["all" if row.samples is None else f"up to {row.samples}" for row in rows]),
        Column("tokens", ["" if row.tokens is None else f"{row.tokens:,}" for row in rows], rank=4),
        *(Column(name, [_gib(getattr(row, field)) for row in rows], rank=rank) for name, field, rank in sizes),
        Column("estimated", [duration(row.seconds) for row in rows]),
    ]
    out.write_line(f"Memory and times are for {time.device.name} in {time.dtype}.")
    _show(out, columns, "the JSON of --dry-run --json")


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.3g}"


def _show(out: PipeConsole, columns: Sequence[Column], elsewhere: str) -> None:
    table, lost = fitted([column for column in columns if any(map(str, column.cells))], out.width)
    out.print(table)
    if lost:
        out.write_line(f"No room for {', '.join(lost)}: see {elsewhere}.")


def plan_times(out: PipeConsole, time: Estimate) -> None:
    """GPU hours, wall time by number of GPUs, and what both rest on."""
    out.write_line(f"Estimated: {time.hours:.3g} GPU hours on {time.device.name}.")
    walls = ", ".join(f"{count}: {duration(seconds)}" for count, seconds in time.walls().items())
    out.write_line(f"Wall time by number of GPUs, loading included: {walls}.{_bound(time)}")
    for sentence in time.assumes:
        out.write_line(plain_line(f"Assumed: {sentence}"))


def _bound(time: Estimate) -> str:
    """A note where one cell takes as long as all the others beside it."""
    walls, longest = time.walls(), max((job.seconds + job.setup_s for job in time.jobs), default=0.0)
    return f" The longest cell alone takes {duration(longest)}." if min(walls.values()) < 1.05 * longest else ""


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def closing(
    err: PipeConsole, folder: Path, timing: dict[str, float], rows: Sequence[Json], quiet: bool, others: int
) -> None:
    """Why cells failed; unless quiet, also where the time went and where the results are.

    others: cells of the run that earlier commands asked for and this one did not.
    """
    failures = dict.fromkeys(row["error"] for row in rows if row["status"] == "failed")
    for sentence in failures:
        err.write_line(plain_line(f"Failed: {sentence}"))
    if quiet:
        return
    more = f", which holds {counted(others, 'more cell')}: its report shows all" if others else ""
    err.write_line(
        f"{timing['wall_s']:.1f} s: models {timing['model_s']:.1f} s, loading {timing['load_s']:.1f} s, "
        f"report {timing['report_s']:.1f} s, harness {timing['harness_s']:.1f} s "
        f"({timing['harness_share']:.1%}). Results: {folder}{more}"
    )


def last_line(out: PipeConsole, value: Json, instead: str, as_json: bool) -> None:
    """One JSON object on the last line, whatever the width; on a terminal, unless asked for, a line for people."""
    out.write_line(dumps(value) if as_json or not out.is_terminal else instead)
