"""Scores by the length of the row, for benchmarks whose rows have lengths of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd

from evals.records.models import CellState
from evals.report.data import Data
from evals.report.digest import Digest, task_of
from evals.report.matched_pairs import by_mean
from evals.report.stats.clusters import clustered_mean
from evals.report.stats.means import mean_interval
from evals.report.tables import Table
from evals.tasks.base import Task

EDGES = [0, *(1024 << power for power in range(2, 11))]
"""Tokens at which a bin begins: 0, 4K, 8K, ... 1M, without end."""
NOTE = "Tokens of the whole prompt before anything was cut, by the model's tokenizer (8K to 16K: 8192 to 16383)."


def length_tables(data: Data) -> list[Table]:
    """One table: the first metric of each cell by length of the row, with intervals; none where all rows of every cell
    are about as long."""
    rows = []
    for cell, state in data.run.cells.items():
        digest = data.run.digest(cell)
        if _own_lengths(state) and len(digest.values):
            where = {"model": state.model, "task": state.task, "budget": state.length}
            rows += [{**where, **found} for found in _bins(state, digest)]
    if not rows:
        return []
    return [Table("row-length", "Score by length of the row", pd.DataFrame(rows, dtype=object), [NOTE])]


def _own_lengths(state: CellState) -> bool:
    """Whether the rows of a task have lengths of their own, and its score is the mean of theirs."""
    task = task_of(state)
    return isinstance(task, Task) and task.lengths is None and by_mean(task)


def _bins(state: CellState, digest: Digest) -> list[dict[str, object]]:
    """Of each bin with scored rows: how many, and their score. Nothing where one bin holds all (generated rows)."""
    known = ~np.isnan(digest.tokens) & ~np.isnan(digest.values)
    bins = np.digitize(digest.tokens, EDGES) - 1
    found: list[dict[str, object]] = []
    for at in sorted(set(bins[known])):
        here = known & (bins == at)
        values = digest.values[here]
        mean = mean_interval(values, clustered_mean(values, digest.codes[here]))
        found.append({"row length": _name(at), "n": len(values), state.metric: mean})
    return found if len(found) > 1 else []


def _name(at: int) -> str:
    """`8K to 16K`; the last bin is open."""
    start = _short(EDGES[at])
    return f"{start} and more" if at + 1 == len(EDGES) else f"{start} to {_short(EDGES[at + 1])}"


def _short(tokens: int) -> str:
    return f"{tokens >> 20}M" if tokens >= 1 << 20 else f"{tokens >> 10}K" if tokens else "0"
