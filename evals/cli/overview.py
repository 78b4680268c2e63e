"""A run at a glance: scores, times and memory of its models, one column per length. For people at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evals.cli.pipes import PipeConsole
from evals.cli.tables import Column, fitted
from evals.cli.terminal import BUSY, UNSTEADY
from evals.records.json import Json
from evals.report.words import two_digits

BEYOND = "*"
COSTS = {"first token, s": "ttft_s", "peak, GiB": "peak_gib"}


def show_overview(out: PipeConsole, rows: Sequence[Json], elsewhere: str) -> bool:
    """Print it, and say what its marks mean. False, and nothing printed, where the rows make no such table: they have
    fewer than two lengths, or more of them than the terminal has room for. elsewhere: where the rest is.
    """
    columns = _columns(rows)
    table, lost = fitted(columns, out.width)
    if len(columns) < 4 or lost:
        return False
    out.print(table)
    if any(row["beyond_window"] for row in rows):
        out.write_line(f"{BEYOND}: beyond the window that the model was made for.")
    if any(row.get("unsteady") for row in rows):
        out.write_line(BUSY)
    out.write_line(f"Intervals and everything else: {elsewhere}")
    return True


def _columns(rows: Sequence[Json]) -> list[Column]:
    lengths = sorted({row["length"] for row in rows if row["length"]})
    tasks, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "model"))
    places = {(row["model"], row["task"], row["length"]): row for row in rows}
    lines: list[tuple[str, str, list[str]]] = []

    def block(name: str, task: str, show: Callable[[Json], str]) -> None:
        for model in models:
            found = [places.get((model, task, length)) for length in lengths]
            if any(found):
                lines.append((name, model, ["" if row is None else show(row) for row in found]))

    for task in tasks:
        metric = next(row["metric"] for row in rows if row["task"] == task)
        block(f"{task}, {metric}", task, _score)
    costly = next((task for task in tasks if any("ttft_s" in row for row in rows if row["task"] == task)), None)
    for name, field in COSTS.items():
        if costly is not None:
            block(name, costly, lambda row, field=field: _cost(row, field))  # type: ignore[misc]
    names = ["" if at and lines[at - 1][0] == name else name for at, (name, _, _) in enumerate(lines)]
    return [
        Column("", names, left=True),
        Column("model", [model for _, model, _ in lines], left=True),
        *(Column(f"{length:,}", [values[at] for _, _, values in lines], rank=1) for at, length in enumerate(lengths)),
    ]


def _score(row: Json) -> str:
    value = row["metrics"].get(row["metric"])
    text = row["status"] if value is None else f"{value:.3g}"
    return text + (BEYOND if row["beyond_window"] else "")


def _cost(row: Json, field: str) -> str:
    if field not in row:
        return row["status"] if row["status"] != "ok" else ""
    return (UNSTEADY if field == "ttft_s" and row.get("unsteady") else "") + two_digits(row[field])
