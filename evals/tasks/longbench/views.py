"""Named averages of LongBench scores: which data sets, and how they are averaged. Views are never mixed.

Scores go in by data set and come out on the same scale. A view is there only if all its data sets are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.tasks.common.view import View
from evals.tasks.longbench.datasets import DATASETS

CATEGORIES = tuple(dict.fromkeys(d.category for d in DATASETS.values()))
LEADERBOARD_EN = tuple(name for name, d in DATASETS.items() if d.language != "zh")
LEADERBOARD_ZH = tuple(name for name, d in DATASETS.items() if d.language != "en")
"""Code counts in both languages, as in the benchmark's README."""
PAPER = tuple(name for name in LEADERBOARD_EN if DATASETS[name].category != "Synthetic")
"""The 14 English and code sets, without the synthetic ones, of SharedLLM and Activation Beacon."""


def views(scores: Mapping[str, float]) -> list[View]:
    """All views that the scores of one model allow.

    longbench-en, longbench-zh: category means, and the unweighted mean of the six (README leaderboard).
    longbench-sharedllm: category means of 14 sets, no overall number.
    longbench-activation-beacon: the same category means, and the mean over the 14 sets.
    """
    found = []
    leaderboards = (("longbench-en", "LongBench EN", LEADERBOARD_EN), ("longbench-zh", "LongBench ZH", LEADERBOARD_ZH))
    for name, title, sets in leaderboards:
        if all(s in scores for s in sets):
            means = category_means(scores, sets)
            found.append(View(name, title, {**means, "Average of 6 categories": _mean(list(means.values()))}))
    if all(s in scores for s in PAPER):
        means = category_means(scores, PAPER)
        found.append(View("longbench-sharedllm", "LongBench, 5 categories (SharedLLM)", means))
        columns = {**means, "Average of 14 data sets": _mean([scores[s] for s in PAPER])}
        found.append(View("longbench-activation-beacon", "LongBench, mean of 14 (Activation Beacon)", columns))
    return found


def category_means(scores: Mapping[str, float], sets: Sequence[str]) -> dict[str, float]:
    """Mean of the data sets of each category, in the benchmark's order."""
    grouped = {c: [scores[s] for s in sets if DATASETS[s].category == c] for c in CATEGORIES}
    return {category: _mean(values) for category, values in grouped.items() if values}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
