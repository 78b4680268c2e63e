"""Figure 3 as a table: memory and time of whole requests by length, and their ratios to SharedLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from evals.records.json import Json
from evals.report import published
from evals.report.data import Data
from evals.report.plots import figure3
from evals.report.tables import Table, fairness_lines
from evals.report.words import tokens

NOTES = [
    "These are medians of cold requests (context, query and answer). Where memory ran out, it is the peak until then.",
    "The column `paper` has the ratio that the paper states for a method, on other hardware and without a length. The "
    "paper reports YaRN out of memory at 128K on one 80 GB GPU.",
]


def tables(data: Data) -> Iterator[Table]:
    """One row per model and quantity, one column per length, where the run compares two methods or more."""
    rows = figure3.requests(data)
    rows = rows[rows["total_s"].notna() | (rows["status"] == "oom")] if len(rows) else rows
    if len({data.run.method(m) for m in rows["model"]}) < 2:
        return
    lengths = {n: tokens(n) for n in sorted(set(rows["length"]))}
    claims, entries = published.speed_ratios(), []
    for model, mine in rows.groupby("model", sort=False):
        method = published.MODELS.get(data.run.method(str(model)), "")
        for quantity, label in figure3.QUANTITIES.items():
            entry: Json = {"model": model, "quantity": label}
            for row in mine.to_dict("records"):
                lost = row["status"] == "oom" and quantity == "total_s"
                entry[lengths[row["length"]]] = "oom" if lost else row[quantity]
            entries.append(entry | ({"paper": claims.get(method)} if quantity == "ratio" else {}))
    frame = pd.DataFrame(entries, columns=["model", "quantity", *lengths.values(), "paper"], dtype=object)
    models = list(dict.fromkeys(rows["model"]))
    title = "Memory and time against length (figure 3)"
    yield Table("figure3", title, frame, NOTES, fairness_lines(data, models))
