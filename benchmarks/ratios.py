"""Which measured ratios of methods are the arithmetic's: a run beside the ratios of its floors, no GPU needed.

    python benchmarks/ratios.py results/measured/h200-7b/all-methods --output runs/ratios

RUN is a folder of `sharedllm-eval --task efficiency`. It holds, for each method and length, the time until the first
token and per token, and the floors of both at the rates of the same GPU: FLOPs over the rate of matrix products, bytes
over the rate of a copy (benchmarks/regimes.py, which computes them without a run). For each pair of methods the ratio
of their floors is what equally efficient implementations would show. The measured ratio over that one is, by
definition, the share of its floor that the second method reaches over the share that the first one reaches. So a
quotient near 1 says that the ratio is the arithmetic's, and any other that it also depends on how well the two methods
are implemented.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evals.errors import UserError
from evals.report.data import Data
from evals.report.load import load
from evals.report.tables import Table
from evals.report.words import tokens

TASK = "efficiency"
NEAR = 0.1
"""Ratios that differ by no more than this share are called equal."""


@dataclass(frozen=True)
class Request:
    """Seconds of a request of a model, or of a part of it, as measured, and their floor."""

    model: str
    measured_s: float
    floor_s: float

    @property
    def share(self) -> float:
        """Of the measured time that the floor is."""
        return self.floor_s / self.measured_s


def requests(rows: pd.DataFrame, reads: int, tokens_after: int) -> list[Request]:
    """Of every model so many reads up to the first token, and so many tokens after it. Where these have no floor (a
    state that comes over the bus), the model is left out."""
    measured = reads * rows["ttft_s"] + tokens_after * rows["tpot_ms"] / 1000
    floors = reads * rows["prefill_floor_s"]
    if tokens_after:
        floors = floors + tokens_after * rows["token_floor_ms"] / 1000
    found = zip(rows["model"], measured, floors, strict=True)
    return [Request(model, took, least) for model, took, least in found if pd.notna(least)]


def compared(found: Sequence[Request]) -> Iterator[dict[str, Any]]:
    """A row for every pair, the later model of the run over the earlier one."""
    for second, first in itertools.combinations(found, 2):
        floors, measured = first.floor_s / second.floor_s, first.measured_s / second.measured_s
        quotient = measured / floors
        yield {
            "model": first.model,
            "over": second.model,
            "floors": floors,
            "measured": measured,
            "measured / floors": quotient,
            "share": first.share,
            "share of the other": second.share,
            "agree": "yes" if max(quotient, 1 / quotient) <= 1 + NEAR else "no",
        }


def table(data: Data, new_tokens: int) -> Table:
    """All pairs at all lengths: the first token, a token after it, and the first one with `new_tokens` more. Raises
    UserError where nothing can be compared."""
    summary = data.summary[(data.summary["task"] == TASK) & (data.summary["status"] == "ok")]
    if not {"prefill_floor_s", "token_floor_ms"} <= set(summary.columns):
        raise UserError(f"{data.run.path} has no floors: give the folder of a run of `--task {TASK}`.")
    parts = {"first token": (1, 0), "per token": (0, 1), f"first token + {new_tokens} more": (1, new_tokens)}
    rows = [
        {"length": tokens(int(length)), "request": name, **row}
        for length, of_length in summary.groupby("length")
        for name, counts in parts.items()
        for row in compared(requests(of_length, *counts))
    ]
    if not rows:
        raise UserError(f"{data.run.path} has no two models that were measured at the same length.")
    agreeing = sum(row["agree"] == "yes" for row in rows)
    notes = [
        f"{agreeing} of {len(rows)} measured ratios agree with those of the floors within {NEAR:.0%}.",
        "measured / floors is the other's share of its floor over the model's. Where it is not near 1 these differ: "
        "the ratio then depends on how well the two are implemented, and not on what they compute alone.",
        "Models of different shapes are compared as they are: the floors are those of each one's own shape.",
    ]
    return Table("ratios", "Ratios of requests, measured and by arithmetic", pd.DataFrame(rows, dtype=object), notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; with --output also write it as CSV, Markdown and LaTeX."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of the task efficiency")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens after the first one")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.new_tokens < 1:
            raise UserError("--new-tokens must be at least 1.")
        made = table(Data.of(load(chosen.run)), chosen.new_tokens)
    except UserError as error:
        print(f"ratios.py: {error}", file=sys.stderr)
        sys.exit(2)
    print(made.markdown())
    if chosen.output:
        made.write(chosen.output)


if __name__ == "__main__":
    main()
