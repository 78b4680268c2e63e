"""Intervals of a benchmark's named averages: the samples of each data set are drawn again, data sets are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.records.models import SampleRecord
from evals.report import stats
from evals.report.stats import Floats, Interval
from evals.tasks.common.view import View

Views = Callable[[Mapping[str, float]], Sequence[View]]


@dataclass(frozen=True)
class Scored:
    """The score of one data set, a mean over its samples, and what it is the mean of."""

    score: float
    metric: str
    samples: Sequence[SampleRecord]


@dataclass(frozen=True)
class Spread:
    """Bootstrap deviations of a mean, shape (replicates,), over so many clusters."""

    deviations: Floats
    clusters: int


def view_intervals(views: Views, found: Mapping[str, Scored], seed: int = 0) -> list[tuple[View, dict[str, Interval]]]:
    """Every view with an interval for each of its columns.

    views: from scores by data set to {view: {column: weighted mean of some of them}}. The data sets of a benchmark
    are fixed, so an interval speaks of other samples of the same data sets (a bootstrap stratified by data set,
    clustered by context within one). None where a data set has a single cluster.
    """
    spread = {name: _spread(scored, seed + i) for i, (name, scored) in enumerate(found.items())}
    shares = {name: _by_id(views({other: float(other == name) for other in found})) for name in found}
    result = []
    for view in views({name: scored.score for name, scored in found.items()}):
        columns = {}
        for column, value in view.columns.items():
            weights = {name: shares[name][view.id][column] for name in found}
            parts = [(weight, spread[name]) for name, weight in weights.items() if weight]
            columns[column] = _interval(value, parts)
        result.append((view, columns))
    return result


def _by_id(views: Sequence[View]) -> dict[str, Mapping[str, float]]:
    return {view.id: view.columns for view in views}


def _spread(scored: Scored, seed: int) -> Spread:
    codes, clusters = stats.cluster_codes(scored.samples)
    values = stats.metric_table(scored.samples, [scored.metric])
    means = stats.bootstrap_means(*stats.cluster_sums(values, codes, clusters), stats.REPLICATES, seed)[:, 0]
    return Spread(means - values.mean(), clusters)


def _interval(value: float, parts: Sequence[tuple[float, Spread]]) -> Interval:
    """As `stats.interval`, which widens for the clusters of all data sets together; each wants its own widening."""
    if any(spread.clusters < 2 for _, spread in parts):
        return Interval(value)
    clusters = 1 + sum(spread.clusters - 1 for _, spread in parts)
    common = clusters / (clusters - 1)
    distribution = np.full(stats.REPLICATES, value)
    for weight, spread in parts:
        own = spread.clusters / (spread.clusters - 1)
        distribution += weight * math.sqrt(own / common) * spread.deviations
    return stats.interval(value, distribution, clusters)


def percent(interval: Interval) -> Interval:
    """A share as percent."""
    return Interval(*(100 * x for x in (interval.estimate, interval.low, interval.high, interval.se)))
