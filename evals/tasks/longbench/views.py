"""Named averages of LongBench scores: which data sets, and how they are averaged. Views are never mixed.

Scores go in by data set and come out on the same scale. A view is there only if all its data sets are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.tasks.longbench.datasets import DATASETS

CATEGORIES = tuple(dict.fromkeys(d.category for d in DATASETS.values()))
LEADERBOARD_EN = tuple(name for name, d in DATASETS.items() if d.language != "zh")
LEADERBOARD_ZH = tuple(name for name, d in DATASETS.items() if d.language != "en")
"""Code counts in both languages, as in the benchmark's README."""
PAPER = tuple(name for name in LEADERBOARD_EN if DATASETS[name].category != "Synthetic")
"""The 14 English and code sets, without the synthetic ones, of SharedLLM and Activation Beacon."""


def views(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """All views that the scores of one model allow, as {view: {column: score}}.

    "LongBench EN", "LongBench ZH": category means, and the unweighted mean of the six (README leaderboard).
    "LongBench, 5 categories (SharedLLM)": category means of 14 sets, no overall number.
    "LongBench, mean of 14 (Activation Beacon)": the same category means, and the mean over the 14 sets.
    """
    out: dict[str, dict[str, float]] = {}
    for name, sets in (("LongBench EN", LEADERBOARD_EN), ("LongBench ZH", LEADERBOARD_ZH)):
        if all(s in scores for s in sets):
            means = category_means(scores, sets)
            out[name] = {**means, "Average of 6 categories": _mean(list(means.values()))}
    if all(s in scores for s in PAPER):
        means = category_means(scores, PAPER)
        out["LongBench, 5 categories (SharedLLM)"] = means
        flat = _mean([scores[s] for s in PAPER])
        out["LongBench, mean of 14 (Activation Beacon)"] = {**means, "Average of 14 data sets": flat}
    return out


def category_means(scores: Mapping[str, float], sets: Sequence[str]) -> dict[str, float]:
    """Mean of the data sets of each category, in the benchmark's order."""
    grouped = {c: [scores[s] for s in sets if DATASETS[s].category == c] for c in CATEGORIES}
    return {category: _mean(values) for category, values in grouped.items() if values}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
