"""The paper's own numbers (results/published), to stand beside what a run measured."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

PACKAGED = Path(__file__).with_name("published_values")
"""Where a wheel has the folder `results/published` of the checkout."""
FOLDER = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "results" / "published"
FIRST = "arXiv 2410.19318v1"
"""The version of the paper that most numbers are of."""
MODELS = {
    "full": "LLaMA-2-7B",
    "sharedllm": "SharedLLM",
    "streaming_llm": "StreamingLLM",
    "yarn": "YaRN-2-128K",
    "cepe": "CEPE",
    "longllama": "LongLlama",
    "activation_beacon": "Activation Beacon",
}
"""What the paper calls the method of a registry name."""


def table(number: int) -> pd.DataFrame:
    """A table of the paper in long form."""
    return _read(f"table{number}")


def speed_ratios() -> dict[str, float]:
    """Figure 3: how many times as long as SharedLLM the paper says that a method takes, by the name of the method."""
    found = _read("figure3")
    found = found[found["column"] == "speed_ratio"]
    return dict(zip(found["variant"].str.removeprefix("against "), found["value"].astype(float), strict=True))


def lost_lengths(method: str) -> list[int]:
    """Figure 3: the lengths in tokens at which the paper says that a method of the registry runs out of memory."""
    found = _read("figure3")
    mine = found[(found["status"] == "oom") & (found["model"] == MODELS.get(method, "").partition("-")[0])]
    return [1024 * int(length.removesuffix("K")) for length in mine["length"]]


@cache
def _read(name: str) -> pd.DataFrame:
    found = pd.read_csv(FOLDER / f"{name}.csv", dtype={"length": str, "variant": str, "column": str})
    return found.fillna({"length": "", "variant": ""})


def rows(number: int, methods: list[str]) -> pd.DataFrame:
    """The rows of a table for the methods of a run."""
    names = {MODELS[m] for m in methods if m in MODELS}
    found = table(number)
    return found[found["model"].isin(names)]


def value(row: dict) -> float | str | None:
    """A published cell: its number, `oom`, or None where the paper gives none."""
    if row["status"] == "oom":
        return "oom"
    return None if pd.isna(row["value"]) else float(row["value"])


def label(name: str, number: int) -> str:
    """A row of a table of the paper, named so that nobody takes it for a measured one."""
    return f"{name} (published, table {number})"
