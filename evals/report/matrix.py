"""The matrices of the page, method by length, as JSON for its script: scores with their tests, and costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from evals.records.json import Json
from evals.report.contests import Column, Contest
from evals.report.data import Data
from evals.report.findings import name
from evals.report.words import metric_label, tokens

MOST_DIFFERENCES = 40_000
"""Differences that the page holds: those of more models and tasks are left out, as `compare` has them."""
QUANTITIES = {
    "total_s": "time of a request (s)",
    "ttft_s": "time to first token (s)",
    "tpot_ms": "time per output token (ms)",
    "peak_gib": "peak memory (GiB)",
    "state_gib": "memory held for the context (GiB)",
}


def matrices(found: Sequence[Contest]) -> list[Json]:
    """One matrix per contest.

    rows: of each model its cells by column, None where it has none: score, low, high, n, status, best (whether it is
    shown to be better than every other), beyond (its window). against: of each base the difference, low, high and p of
    every other model by column. chance: of each column, where any is above 0.
    """
    result, left = [], MOST_DIFFERENCES
    for contest in found:
        size = len(contest.models) ** 2 * len(contest.columns)
        left -= size
        result.append(_matrix(contest, differences=left >= 0))
    return result


def _matrix(contest: Contest, differences: bool) -> Json:
    chance = [_chance(contest, column) for column in contest.columns]
    return {
        "title": contest.title,
        "columns": [
            {
                "name": name(contest, column),
                "task": column.task,
                "length": column.length,
                "metric": metric_label(column.metric, True),
                "higher_is_better": column.higher_is_better,
            }
            for column in contest.columns
        ],
        "rows": {model: [_cell(contest, model, column) for column in contest.columns] for model in contest.models},
        "against": {base: _against(contest, base) for base in contest.models} if differences else {},
        "chance": chance if any(chance) else None,
    }


def _cell(contest: Contest, model: str, column: Column) -> Json | None:
    cell = contest.cells.get((model, column))
    if cell is None:
        return None
    state, score, best = contest.run.cells[cell], contest.score(model, column), contest.best.get(column)
    found: Json = {"status": state.status, "n": contest.run.digest(cell).n}
    if score is not None:
        found |= {"score": _short(score.estimate), "low": _short(score.low), "high": _short(score.high)}
    if best is not None and best.shown and best.model == model:
        found["best"] = True
    return found | ({"beyond": True} if state.beyond_window else {})


def _against(contest: Contest, base: str) -> dict[str, list[list[float | None] | None]]:
    found = contest.against(base)
    rows: dict[str, list[list[float | None] | None]] = {}
    for model in contest.models:
        if model != base:
            cells = (found.get((model, column)) for column in contest.columns)
            rows[model] = [None if c is None else [*map(_short, (c.difference, c.low, c.high, c.p))] for c in cells]
    return rows


def _chance(contest: Contest, column: Column) -> float:
    cells = [cell for (_, other), cell in contest.cells.items() if other == column]
    return max((contest.run.digest(cell).chance for cell in cells), default=0.0)


def costs(data: Data) -> list[Json]:
    """One matrix per cost that was measured: rows with the number, `oom` or None for each length."""
    rows = data.costs
    lengths = sorted({int(length) for length in rows["length"]}) if len(rows) else []
    result = []
    for quantity, title in QUANTITIES.items():
        if quantity not in rows or rows[quantity].notna().sum() == 0:
            continue
        known: dict[str, list[float | str | None]] = {}
        for model, mine in rows.groupby("model", sort=False):
            by_length = {int(row["length"]): row for row in mine.to_dict("records")}
            known[str(model)] = [_cost(by_length.get(length), quantity) for length in lengths]
        columns = [{"name": tokens(length)} for length in lengths]
        result.append({"title": title, "columns": columns, "rows": known, "task": str(rows["task"].iloc[0])})
    return result


def _cost(row: Json | None, quantity: str) -> float | str | None:
    if row is None:
        return None
    if row["status"] == "oom":
        return "oom"
    return None if pd.isna(row[quantity]) else _short(float(row[quantity]))


def _short(value: float) -> float | None:
    """Four significant digits: the page shows no more. None for NaN."""
    return None if pd.isna(value) else float(f"{value:.4g}")
