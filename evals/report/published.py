"""The paper's own numbers (results/published), shown below what a run measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from evals.records.json import Json
from evals.report.data import Data

Cell = Json
"""A line of a published table: model, version, variant, column, length, status, value."""

PACKAGED = Path(__file__).with_name("published_values")
"""Where a wheel holds the checkout's folder `results/published`."""
FOLDER = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "results" / "published"
FIRST = "arXiv 2410.19318v1"
"""The version of the paper that most numbers come from."""
BASE_NOTE = "Published rows are LLaMA-2-7B. Compare them only with the same base model and data."
MODELS = {
    "full": "LLaMA-2-7B",
    "sharedllm": "SharedLLM",
    "streaming_llm": "StreamingLLM",
    "yarn": "YaRN-2-128K",
    "cepe": "CEPE",
    "longllama": "LongLlama",
    "activation_beacon": "Activation Beacon",
}
"""The paper's name for a method of the registry."""


def table(number: int) -> pd.DataFrame:
    """A table of the paper in long form."""
    return _read(f"table{number}")


def speed_ratios() -> dict[str, float]:
    """Figure 3: the time of a method over SharedLLM's, as the paper states it, by the paper's name of the method."""
    found = _read("figure3")
    found = found[found["column"] == "speed_ratio"]
    return dict(zip(found["variant"].str.removeprefix("against "), found["value"].astype(float), strict=True))


def lost_lengths(method: str) -> list[int]:
    """Figure 3: lengths in tokens at which the paper reports a method of the registry out of memory."""
    found = _read("figure3")
    mine = found[(found["status"] == "oom") & (found["model"] == MODELS.get(method, "").partition("-")[0])]
    return [1024 * int(length.removesuffix("K")) for length in mine["length"]]


@cache
def _read(name: str) -> pd.DataFrame:
    found = pd.read_csv(FOLDER / f"{name}.csv", dtype={"length": str, "variant": str, "column": str})
    return found.fillna({"length": "", "variant": ""})


def rows_for(data: Data, number: int, place: Callable[[Cell], str | None]) -> list[Json]:
    """Rows of a published table for the methods of a run.

    place: the column of ours in which a published cell belongs, or None.
    """
    methods = {model.method for model in data.run.models.values()}
    known = table(number)
    found: dict[str, Json] = {}
    for row in known[known["model"].isin({MODELS[m] for m in methods if m in MODELS})].to_dict("records"):
        column = place(row)
        if column is not None:
            name = row["model"] if row["version"] == FIRST else f"{row['model']}, {row['version']}"
            entry = found.setdefault(name, {"model": label(name, number), "length": row["length"]})
            entry[column] = value(row)
    return list(found.values())


def value(row: Cell) -> float | str | None:
    """A published cell: its number, `oom`, or None where the paper gives none."""
    if row["status"] == "oom":
        return "oom"
    return None if pd.isna(row["value"]) else float(row["value"])


def label(name: str, number: int) -> str:
    """A row of a table of the paper, named so that nobody takes it for a measured one."""
    return f"{name} (published, table {number})"
