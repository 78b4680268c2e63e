"""Intervals of metrics that only their task can compute (a perplexity, a mean of documents' means)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evals.records.models import SampleRecord
from evals.report.stats.clusters import ClusteredMean, cluster_codes
from evals.report.stats.interval import Floats, Interval
from evals.report.stats.means import plain

Statistic = Callable[[Sequence[SampleRecord]], Mapping[str, float]]

MOST_BLOCKS = 200
"""Evaluations of a statistic per cell: more clusters than these are joined into blocks."""
LOGARITHMIC = "ppl"
"""Metrics with this prefix get the interval of their logarithm."""


def influences(samples: Sequence[SampleRecord], statistic: Statistic) -> tuple[dict[str, float], dict[str, Floats]]:
    """A statistic of a cell, and the influence of each cluster on it: (G - 1)(whole - whole without the cluster).

    Estimate + influence is the jackknife pseudo-value (Tukey 1958). NaN where the statistic does not exist without
    the cluster. Metrics that are not finite are left out.
    """
    whole = {name: float(value) for name, value in statistic(samples).items()}
    whole = {name: value for name, value in whole.items() if math.isfinite(value)}
    codes, clusters = cluster_codes(samples)
    blocks = min(clusters, MOST_BLOCKS)
    if blocks < 2:
        return whole, {name: np.full(1, np.nan) for name in whole}
    codes = codes % blocks
    without = [statistic([s for s, c in zip(samples, codes, strict=True) if c != b]) for b in range(blocks)]
    return whole, {
        name: np.array([(blocks - 1) * (value - w.get(name, np.nan)) for w in without]) for name, value in whole.items()
    }


def jackknife(estimate: float, influence_G: Floats) -> ClusteredMean:
    """The estimate with its jackknife standard error. df: one less than the clusters that have any influence."""
    clusters = int(np.count_nonzero(influence_G))
    if clusters < 2 or not np.isfinite(influence_G).all():
        return ClusteredMean(estimate, float("nan"), float("nan"), min(clusters, 1), False)
    se = float(influence_G.std(ddof=1) / math.sqrt(len(influence_G)))
    return ClusteredMean(estimate, se, clusters - 1.0, clusters, False)


def logarithmic(statistic: Statistic) -> Statistic:
    """The statistic with its perplexities as logarithms, the mean loss."""
    return lambda part: {n: _log(v) if n.startswith(LOGARITHMIC) else v for n, v in statistic(part).items()}


def influence_intervals(whole: Mapping[str, float], pulls: Mapping[str, Floats]) -> dict[str, Interval]:
    """The t interval over clusters of each statistic, from `influences` of `logarithmic`.

    A perplexity gets the interval of its logarithm, the mean loss: it never reaches below zero.
    """
    found = {name: plain(jackknife(value, pulls[name])) for name, value in whole.items()}
    return {name: _exponential(i) if name.startswith(LOGARITHMIC) else i for name, i in found.items()}


def statistic_intervals(samples: Sequence[SampleRecord], statistic: Statistic) -> dict[str, Interval]:
    """Any statistic of a cell with its interval."""
    return influence_intervals(*influences(samples, logarithmic(statistic)))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else float("nan")


def _exponential(interval: Interval) -> Interval:
    with np.errstate(over="ignore"):
        low, estimate, high = (float(x) for x in np.exp([interval.low, interval.estimate, interval.high]))
    return Interval(estimate, low, high, se=estimate * interval.se)
