"""Effective length: up to where a score keeps most of what it is at the shortest length.

NoLiMa (Modarressi et al. 2025) asks for 85 % of a model's own short-length score; RULER (Hsieh et al. 2024) for a fixed
score, 85.6 %, that of Llama 2 7B at 4K. Here it is a share of the model's own score, by default 85 %. Where that
score is not shown to be above chance, nor above FLOOR, there is none: most of next to nothing is kept at any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from evals.records.json import Json
from evals.report.data import ENDED, Data
from evals.report.digest import task_of
from evals.report.matched_pairs import by_mean
from evals.report.stats.bootstrap import DRAWS, drawn_means
from evals.report.stats.interval import FEWEST, LEVEL, Floats
from evals.report.tables import NO_NUMBER, Table
from evals.tasks.base import Task

THRESHOLD = 0.85
FLOOR = 0.05
"""What the interval of the score at the shortest length has to be above, where chance is lower still."""
COLUMNS = ["model", "task", "shortest", "score there", "effective length", "low", "high", "longest", "remark"]


@dataclass(frozen=True)
class Effective:
    """Lengths in tokens. length: the effective one, None where there is none, which `remark` explains; low, high: its
    95 % interval, None where there are too few samples. shortest, longest: that were measured; score: at the shortest.
    """

    model: str
    task: str
    shortest: int
    score: float | None
    length: int | None
    low: int | None
    high: int | None
    longest: int
    remark: str

    def as_dict(self) -> Json:
        """All of it, as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """`16384 tokens (8192 to 32768)`, or why there is no number."""
        if self.length is None:
            return f"none: {self.remark}"
        interval = "" if self.low is None else f" ({self.low} to {self.high})"
        return f"{self.length} tokens{interval}" + (f", {self.remark}" if self.remark else "")


@dataclass(frozen=True)
class Point:
    """The score of one length, or the mean of several tasks' scores. draws: (DRAWS,) from its distribution. contexts:
    of the task with the fewest; 0 where memory ran out. low: end of the 95 % interval that the summary gives; NaN
    where it gives none.
    """

    score: float
    draws: Floats
    contexts: int
    chance: float
    low: float = float("nan")

    @property
    def least(self) -> float:
        """What the score is shown to be above: `low`, or the same quantile of the draws, of which few contexts have
        none that is honest."""
        if not np.isnan(self.low):
            return self.low
        return -np.inf if self.contexts < FEWEST else float(np.quantile(self.draws, LEVEL / 2))


LOST = Point(-np.inf, np.full(DRAWS, -np.inf), 0, 0.0)
"""Out of memory: whatever is asked of a score is not reached."""


def effective_lengths(data: Data, threshold: float = THRESHOLD) -> list[Effective]:
    """For each model and task with scores at a length, and for the mean over a benchmark's tasks where it has several.

    Only scores count that are means over samples and better when higher, of cells that were run to their end.
    """
    found = []
    for (model, family), rows in data.scores.groupby(["model", "family"], sort=False):
        curves: dict[str, dict[int, Point]] = {}
        for row in rows[rows["length"].notna() & rows["higher_is_better"].astype(bool)].to_dict("records"):
            if (point := _point(data, row)) is not None:
                curves.setdefault(str(row["task"]), {})[int(row["length"])] = point
        scored = {task: curve for task, curve in curves.items() if _scored(curve)}
        found += [effective_length(str(model), task, curve, threshold) for task, curve in scored.items()]
        if len(curves) > 1 and _scored(joined := _mean(list(curves.values()))):
            found.append(effective_length(str(model), f"{family} ({len(curves)} tasks)", joined, threshold))
    return found


def effective_table(data: Data, threshold: float = THRESHOLD) -> Iterator[Table]:
    """The effective lengths of a run as a table, if it measured any task at two lengths or more."""
    found = effective_lengths(data, threshold)
    if all(e.shortest == e.longest for e in found):
        return
    rows = [
        [e.model, e.task, e.shortest, e.score, e.length or NO_NUMBER, e.low, e.high, e.longest, e.remark] for e in found
    ]
    notes = [
        f"This is the longest length in tokens up to which the score stays at {100 * threshold:.4g} % or more of the "
        "model's own score at the shortest length, where the 95 % interval of that score is above chance and above "
        f"{FLOOR:g}. Its own 95 % interval, from low to high, is a bootstrap over contexts."
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    yield Table("effective-length", "Effective length", frame, notes)


def _point(data: Data, row: Mapping[str, Any]) -> Point | None:
    """None for a cell without a score that is a mean over all its answers; LOST where only some of them fitted."""
    if row["status"] not in ENDED:
        return None
    task = task_of(data.run.cells[row["cell"]])
    if not isinstance(task, Task) or not by_mean(task):
        return None
    digest = data.run.digest(row["cell"])
    values, codes = digest.counted, digest.counted_codes
    if row["cell"] in data.ran_out or not len(values):
        return LOST if row["status"] == "oom" else None
    draws = drawn_means(values, codes, row["cell"])
    return Point(float(values.mean()), draws, int(codes.max()) + 1, digest.chance, float(row["low"]))


def _scored(curve: Mapping[int, Point]) -> bool:
    return any(np.isfinite(point.score) for point in curve.values())


def _mean(curves: Sequence[Mapping[int, Point]]) -> dict[int, Point]:
    """The mean over tasks, at the lengths that all of them have."""
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {length: _mean_of([curve[length] for curve in curves]) for length in shared}


def _mean_of(points: Sequence[Point]) -> Point:
    """With few contexts its `low` is the mean of theirs, which is lower than need be."""
    fewest = min(point.contexts for point in points)
    return Point(
        float(np.mean([point.score for point in points])),
        np.mean([point.draws for point in points], axis=0),
        fewest,
        float(np.mean([point.chance for point in points])),
        float(np.mean([point.low for point in points])) if fewest < FEWEST else float("nan"),
    )


def effective_length(model: str, task: str, curve: Mapping[int, Point], threshold: float = THRESHOLD) -> Effective:
    """The effective length of a curve of scores by length in tokens, at least one of them finite."""
    lengths = sorted(curve)
    points = [curve[length] for length in lengths]
    base = points[0]
    score = base.score if np.isfinite(base.score) else None
    measured = max(length for length in lengths if np.isfinite(curve[length].score))

    def answer(length: int | None, low: int | None, high: int | None, remark: str) -> Effective:
        return Effective(model, task, lengths[0], score, length, low, high, measured, remark)

    if len(lengths) == 1:
        return answer(None, None, None, "one length only")
    if not np.isfinite(base.score):
        return answer(None, None, None, "out of memory at the shortest length")
    bound = max(base.chance, FLOOR)
    if base.score <= bound or base.least <= bound:
        what = f"chance ({bound:.2g})" if bound > FLOOR else f"{bound:g}"
        return answer(None, None, None, f"the score at {lengths[0]} is not shown to be above {what}")
    place = _last(np.array([[point.score] for point in points]), threshold)[0]
    places = _last(np.stack([point.draws for point in points]), threshold)
    remarks = ["at least: no longer length was measured"] if place == len(lengths) - 1 else []
    fewest = min(point.contexts for point in points if np.isfinite(point.score))
    if fewest < FEWEST:
        remarks.append(f"too few samples for an interval ({fewest})")
        return answer(lengths[place], None, None, "; ".join(remarks))
    low, high = np.quantile(places, [LEVEL / 2, 1 - LEVEL / 2], method="inverted_cdf").astype(int)
    return answer(lengths[place], lengths[low], lengths[high], "; ".join(remarks))


def _last(scores_LB: Floats, threshold: float) -> np.ndarray:
    """Index (B,) of the last of L lengths up to which every score is at least `threshold` of the first."""
    kept_LB = scores_LB >= threshold * scores_LB[:1]
    last_B: np.ndarray = np.logical_and.accumulate(kept_LB, axis=0).sum(axis=0) - 1
    return last_B
