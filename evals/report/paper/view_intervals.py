"""Intervals of a benchmark's named averages: over other samples of the same data sets, not over other data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.report.stats.clusters import ClusteredMean, clustered_mean
from evals.report.stats.interval import Codes, Floats, Interval
from evals.report.stats.means import mean_interval, plain, share
from evals.tasks.common.view import View

Views = Callable[[Mapping[str, float]], Sequence[View]]


@dataclass(frozen=True)
class Scored:
    """The score of one data set, and the values and clusters of its samples, whose mean it is."""

    score: float
    values: Floats
    codes: Codes


def view_intervals(views: Views, found: Mapping[str, Scored]) -> list[tuple[View, dict[str, Interval]]]:
    """Every view with an interval for each of its columns.

    views: from scores by data set to {view: {column: weighted mean of some of them}}. The data sets of a benchmark
    are fixed, so an interval covers other samples of the same data sets. None where a data set has a single cluster.
    """
    means = {name: _mean(scored) for name, scored in found.items()}
    shares = {name: _by_id(views({other: float(other == name) for other in found})) for name in found}
    result = []
    for view in views({name: scored.score for name, scored in found.items()}):
        columns = {}
        for column, value in view.columns.items():
            weights = {name: shares[name][view.id][column] for name in found}
            parts = [(weight, *means[name]) for name, weight in weights.items() if weight]
            columns[column] = _interval(value, parts)
        result.append((view, columns))
    return result


def _by_id(views: Sequence[View]) -> dict[str, Mapping[str, float]]:
    return {view.id: view.columns for view in views}


def _mean(scored: Scored) -> tuple[Floats, ClusteredMean]:
    return scored.values, clustered_mean(scored.values, scored.codes)


def _interval(value: float, parts: Sequence[tuple[float, Floats, ClusteredMean]]) -> Interval:
    """A weighted mean of data sets: variances add, degrees of freedom as Welch and Satterthwaite combine them."""
    means = [mean for _, _, mean in parts]
    if any(mean.clusters < 2 for mean in means):
        return Interval(value)
    if len(parts) == 1 and parts[0][0] == 1:
        return mean_interval(parts[0][1], means[0])
    variances = np.array([(weight * _error(values, mean)) ** 2 for weight, values, mean in parts])
    if not variances.sum() > 0:
        return Interval(value)
    df = variances.sum() ** 2 / sum(variances**2 / [mean.df for mean in means])
    whole = ClusteredMean(value, float(np.sqrt(variances.sum())), float(df), sum(m.clusters for m in means), False)
    shares = all(np.nanmin(values) >= 0 and np.nanmax(values) <= 1 for _, values, _ in parts)
    return share(whole) if shares and 0 < value < 1 else plain(whole)


def _error(values: Floats, mean: ClusteredMean) -> float:
    """Standard error of one data set. Where all its samples agree, that of its interval, if it has one."""
    error = mean.se if mean.se > 0 else mean_interval(values, mean).se
    return error if error > 0 else 0.0


def percent(interval: Interval) -> Interval:
    """A share as percent."""
    return Interval(*(100 * x for x in (interval.estimate, interval.low, interval.high, interval.se)))
