"""Tables 1 and 2: perplexity by data set and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from evals.records.models import CellState
from evals.report import published
from evals.report.data import Data
from evals.report.stats import Interval
from evals.report.tables import Table, fairness_lines
from evals.report.words import tokens

DATASETS = {"pg19": "PG19", "proof-pile": "ProofPile", "codeparrot": "CodeParrot", "arxiv": "Arxiv"}
Row = Mapping[str, object]


def tables(data: Data) -> Iterator[Table]:
    """One row per model, one column per data set and length."""
    cells = data.ended[data.ended["task"] == "perplexity"]
    found: dict[str, dict[tuple[str, int], Interval | str]] = {}
    measured = cells["length"].notna() & ((cells["n"] > 0) | (cells["status"] == "oom"))
    for row in cells[measured].to_dict("records"):
        columns = found.setdefault(row["model"], {})
        for dataset, metric in _datasets(row, data.run.cells[row["cell"]]):
            value = Interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"]) if metric in row else None
            if row["cell"] in data.ran_out or (row["status"] == "oom" and not row["n"]):
                columns[dataset, row["length"]] = "oom"
            elif value is not None:
                columns[dataset, row["length"]] = value
    names = sorted({c for columns in found.values() for c in columns})
    if not names:
        return
    keys = {(d, tokens(n)): f"{d} {tokens(n)}" for d, n in names}
    rows = [{"model": m, **{f"{d} {tokens(n)}": v for (d, n), v in columns.items()}} for m, columns in found.items()]
    beside = [
        row
        for number in (1, 2)
        for row in published.rows_for(data, number, lambda r: keys.get((r["column"], r["length"])))
    ]
    notes = ["Perplexity is better when lower. Its 95 % interval over documents is in brackets."]
    yield Table(
        "table1-2-perplexity",
        "Perplexity (layout of tables 1 and 2)",
        pd.DataFrame([*rows, *beside], columns=["model", *keys.values()], dtype=object),
        notes + [published.BASE_NOTE] * bool(beside),
        fairness_lines(data, list(found)),
    )


def _datasets(row: Row, cell: CellState) -> Iterator[tuple[str, str]]:
    """Names of data sets and the metrics that hold their perplexities: the whole cell, then each domain of it."""
    metric = cell.metric
    dataset = cell.settings.get("dataset")
    yield DATASETS.get(str(dataset), str(dataset)) if dataset else "all", metric
    for column in row:
        if column.startswith(f"{metric}/") and not column.endswith(("_low", "_high")) and not pd.isna(row[column]):
            domain = column.partition("/")[2]
            yield DATASETS.get(domain, domain), column
