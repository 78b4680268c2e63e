"""What `sharedllm-eval` shows: the plan, the results, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evals.cli.pipes import PipeConsole
from evals.cli.tables import add_row, new_table
from evals.records.json import Json, dumps
from evals.run.dry_run import Planned
from evals.run.estimate import Estimate
from evals.safe_text import plain_line

GIB = 1 << 30


def results_table(rows: Sequence[Json]) -> Table:
    """One row per cell: status, first metric with its interval, other metrics, costs."""
    texts, costs = ("model", "task", "status", "also"), ("TTFT s", "ms/token", "peak GiB", "state GiB")
    table = new_table(("model", "task", "length", "status", "n", "score", "95 % interval", "also", *costs), left=texts)
    for row in rows:
        metrics, first = row["metrics"], row["metric"]
        sampled = first in metrics and not row.get("measured")
        low, high = row.get("intervals", {}).get(first, (None, None))
        add_row(
            table,
            row["model"],
            row["task"],
            str(row["length"] or ""),
            row["status"]
            + (", beyond window" if row["beyond_window"] else "")
            + (", context not tested" if row.get("tests_context") is False else "")
            + "".join(f", {row[kind]} rows {kind}" for kind in ("cut", "skipped") if row.get(kind)),
            str(row["n"]),
            f"{first} {_number(metrics[first])}" if first in metrics else "",
            _interval(low, high) if sampled else "",
            ", ".join(f"{name} {_number(metrics[name])}" for name in metrics if name != first and "/" not in name),
            *(_number(row.get(name)) for name in ("ttft_s", "tpot_ms", "peak_gib", "state_gib")),
        )
    return table


def plan_table(rows: Sequence[Planned]) -> Table:
    """One row per cell of a run that was not started."""
    columns = ("model", "task", "length", "samples", "tokens", "weights GiB", "state GiB", "dense KV GiB", "estimated")
    table = new_table(columns, left=("model", "task"))
    for row in rows:
        add_row(
            table,
            row.cell.model.name,
            row.cell.task.name,
            str(row.cell.length or ""),
            "all" if row.samples is None else f"up to {row.samples}",
            "" if row.tokens is None else f"{row.tokens:,}",
            *(
                "" if size is None else f"{size / GIB:.3g}"
                for size in (row.weight_bytes, row.state_bytes, row.kv_bytes)
            ),
            duration(row.seconds),
        )
    return table


def plan_times(out: PipeConsole, time: Estimate) -> None:
    """GPU hours, wall time by number of GPUs, and what both rest on."""
    out.write_line(f"Estimated: {time.hours:.3g} GPU hours on {time.device.name}.")
    walls = ", ".join(f"{count}: {duration(seconds)}" for count, seconds in time.walls().items())
    out.write_line(f"Wall time by number of GPUs, loading included: {walls}.{_bound(time)}")
    for sentence in time.assumes:
        out.write_line(plain_line(f"Assumed: {sentence}"))


def _bound(time: Estimate) -> str:
    """A note where one cell takes as long as all the others beside it."""
    walls, longest = time.walls(), max(job.seconds + job.setup_s for job in time.jobs)
    return f" The longest cell alone takes {duration(longest)}." if min(walls.values()) < 1.05 * longest else ""


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def _interval(low: float | None, high: float | None) -> str:
    return "too few" if low is None else f"{_number(low)} to {_number(high)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def closing(
    err: Console, folder: Path, timing: dict[str, float], rows: Sequence[Json], quiet: bool, others: int
) -> None:
    """Why cells failed; unless quiet, also where the time went and where the results are.

    others: cells of the run that earlier commands asked for and this one did not.
    """
    failures = dict.fromkeys(row["error"] for row in rows if row["status"] == "failed")
    for sentence in failures:
        err.print(plain_line(f"Failed: {sentence}"), markup=False, highlight=False, soft_wrap=True)
    if quiet:
        return
    err.print(
        f"{timing['wall_s']:.1f} s: models {timing['model_s']:.1f} s, loading {timing['load_s']:.1f} s, "
        f"report {timing['report_s']:.1f} s, harness {timing['harness_s']:.1f} s "
        f"({timing['harness_share']:.1%}). Results: {folder}"
        + (f", which holds {others} more cells: its report shows all" if others else ""),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def last_line(out: PipeConsole, value: Json) -> None:
    """One JSON object on the last line, whatever the width of the terminal."""
    out.write_line(dumps(value))
