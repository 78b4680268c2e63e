"""Tables 3 and 4, and every other view that a benchmark defines over its data sets; scores in percent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pandas as pd

from evals import registry
from evals.records.json import Json
from evals.report import published
from evals.report.data import Data
from evals.report.paper.view_intervals import Scored, percent, view_intervals
from evals.report.tables import Table, fairness_lines
from evals.report.words import tokens

CATEGORIES = {
    "Single-Doc QA": "SD-QA",
    "Multi-Doc QA": "MD-QA",
    "Summarization": "Summ.",
    "Few-shot": "Few-shot",
    "Code": "Code",
}
"""Columns of the paper for the categories of LongBench."""
NUMBERS = {"infinitebench-sharedllm": 3, "longbench-sharedllm": 4}
"""Table of the paper that shows a view, by the view's id."""


def tables(data: Data) -> Iterator[Table]:
    """One table per view, one row per model and length."""
    scores = data.scores[data.scores["score"].notna()]
    for family, cells in scores.groupby("family", sort=False):
        task = registry.task(str(family))
        rows: dict[str, list[Json]] = {}
        titles: dict[str, str] = {}
        for (model, length), mine in cells.groupby(["model", cells["length"].fillna(0)], sort=False):
            found = {
                row["task"].partition(":")[2]: Scored(row["score"], digest.values, digest.codes)
                for row in mine.to_dict("records")
                for digest in [data.run.digest(row["cell"])]
            }
            for view, columns in view_intervals(task.views, found):
                shown = {CATEGORIES.get(c, c): percent(v) for c, v in columns.items()}
                titles[view.id] = view.title
                rows.setdefault(view.id, []).append(
                    {"model": model, "length": tokens(cast(float, length)) if length else "own", **shown}
                )
        for view_id, measured in rows.items():
            yield _table(data, view_id, titles[view_id], measured)


def _table(data: Data, view_id: str, title: str, rows: list[Json]) -> Table:
    number = NUMBERS.get(view_id)
    columns = [c for c in rows[0] if c not in ("model", "length")]
    beside = (
        published.rows_for(data, number, lambda r: r["column"] if r["column"] in columns else None) if number else []
    )
    notes = ["Scores are in percent. Their 95 % interval over samples of the same data sets is in brackets."]
    return Table(
        f"table{number}" if number else f"view-{view_id}",
        title + (f" (layout of table {number})" if number else ""),
        pd.DataFrame([*rows, *beside], columns=["model", "length", *columns], dtype=object),
        notes + [published.BASE_NOTE] * bool(beside),
        fairness_lines(data, list(dict.fromkeys(r["model"] for r in rows))),
    )
