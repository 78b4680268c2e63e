"""Table 5: variants of SharedLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from evals.records.json import Json
from evals.report.data import Data
from evals.report.paper.axes import variants
from evals.report.stats import Interval
from evals.report.tables import Table, fairness_lines
from evals.report.words import tokens


def tables(data: Data) -> Iterator[Table]:
    """One row per variant, where there are three or more: the first metric of every task at its longest length."""
    names = variants(data.run)
    if len(names) < 3:
        return
    scores = data.scores[data.scores["model"].isin(names) & data.scores["score"].notna()]
    longest = scores[scores["length"].fillna(0) == scores.groupby("task")["length"].transform("max").fillna(0)]
    rows: dict[str, Json] = {n: {"model": n, "variant": v} for n, v in names.items()}
    for row in longest.to_dict("records"):
        at = "" if pd.isna(row["length"]) else f" {tokens(row['length'])}"
        rows[row["model"]][f"{row['task']}{at} {row['metric']}"] = Interval(row["score"], row["low"], row["high"])
    yield Table(
        "table5-ablation",
        "Ablation (layout of table 5)",
        pd.DataFrame(list(rows.values()), dtype=object),
        ["The paper's ablations, on its own data and base model, are in results/published/table5.csv."],
        fairness_lines(data, list(names)),
    )
