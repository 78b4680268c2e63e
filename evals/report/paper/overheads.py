"""Tables 9 to 12: time and memory of SharedLLM against each of its parts, at 8K or the nearest length."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from evals.records.json import Json
from evals.report import published
from evals.report.data import Data
from evals.report.paper.axes import axes, variants
from evals.report.tables import Table, fairness_lines
from evals.report.words import tokens

NUMBERS = {"M": 9, "beta": 10, "height": 11, "policy": 12}
"""Table of the paper for each part of SharedLLM that it varies."""
LENGTH = 8192
"""Tokens of the paper's requests."""


def tables(data: Data) -> Iterator[Table]:
    """One table per part in which two models or more differ, all else equal to the first."""
    costs = data.costs
    costs = costs[costs["model"].isin(variants(data.run)) & costs["ttft_s"].notna()]
    if costs.empty:
        return
    nearest = min(set(costs["length"]), key=lambda n: abs(n - LENGTH))
    chosen = costs[costs["length"] == nearest].set_index("model")
    parts = {m: axes(data.run.models[m].settings) for m in chosen.index}
    reference = next(iter(parts.values()))
    for part, number in NUMBERS.items():
        same = {m: p for m, p in parts.items() if all(p[k] == reference[k] for k in p if k != part)}
        if len({p[part] for p in same.values()}) > 1:
            named = {f"{part}={p[part]}": chosen.loc[m] for m, p in same.items()}
            yield _table(part, number, nearest, named, fairness_lines(data, list(same)))


def _table(part: str, number: int, length: int, measured: dict[str, pd.Series], fairness: list[str]) -> Table:
    """Time of a whole request where all variants have it (the task efficiency), else time to first token."""
    whole = all(pd.notna(row.get("total_s")) for row in measured.values())
    rows = [
        {
            "variant": variant,
            "time (s)": row["total_s" if whole else "ttft_s"],
            "memory (GiB)": row["peak_gib"],
            **({"first token (s)": row["ttft_s"]} if whole else {}),
        }
        for variant, row in measured.items()
    ]
    return Table(
        f"table{number}-{part.lower()}",
        f"Time and memory against {part} at {tokens(length)} tokens (layout of table {number})",
        pd.DataFrame([*rows, *_published(number)], dtype=object),
        [
            f"Our rows have {'the time of a whole cold request' if whole else 'the time to first token'} and the peak "
            "memory. The published ones are of LLaMA-2-7B on the paper's hardware, for a request that it does not "
            "describe: compare ratios only."
        ],
        fairness,
    )


def _published(number: int) -> Iterator[Json]:
    """Rows of the paper: seconds and GB where it gives them, else what the part adds in percent."""
    known = published.table(number)
    for variant in dict.fromkeys(known["variant"]):
        mine = {r["column"]: r["value"] for r in known[known["variant"] == variant].to_dict("records")}
        label = published.label(variant, number)
        if "time_s" in mine:
            yield {"variant": label, "time (s)": mine["time_s"], "memory (GiB)": mine["memory_gb"]}
        elif "added_time_percent" in mine:
            time_s, memory = (f"+{mine[f'added_{what}_percent']:g} %" for what in ("time", "memory"))
            yield {"variant": label, "time (s)": time_s, "memory (GiB)": memory}
