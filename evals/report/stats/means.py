"""Intervals of means of sample scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, ndtri

from evals.records.models import SampleRecord
from evals.report.stats.clusters import ClusteredMean, cluster_codes, clustered_mean, metric_table
from evals.report.stats.interval import FEWEST, LEVEL, Floats, Interval


def mean_intervals(samples: Sequence[SampleRecord]) -> dict[str, Interval]:
    """Mean of every metric with its 95 % interval; clusters by `group`. Values that are not finite do not count."""
    names = list(dict.fromkeys(name for s in samples for name in s.metrics))
    if not names:
        return {}
    values_SK = metric_table(samples, names)
    codes_S, _ = cluster_codes(samples)
    columns = {name: values_SK[:, k] for k, name in enumerate(names)}
    return {name: mean_interval(v, clustered_mean(v, codes_S)) for name, v in columns.items() if not np.isnan(v).all()}


def mean_interval(values_S: Floats, mean: ClusteredMean) -> Interval:
    """The interval of a mean of `values_S`.

    Shares: exact limits. Positive values: t limits of the logarithm, as such values are skewed. Others: t limits. No
    limits with a single cluster, where all clusters agree on a value that is not a share, and with fewer than FEWEST
    clusters of values that are not shares: t limits of skewed scores do not cover there.
    """
    found = values_S[~np.isnan(values_S)]
    if mean.clusters < 2:
        return Interval(mean.value)
    if are_shares(found, mean.clusters):
        binary = mean.independent and bool(np.isin(found, [0.0, 1.0]).all())
        return independent_share(mean.value, len(found)) if binary else share(mean)
    if mean.clusters < FEWEST:
        return Interval(mean.value)
    return positive(mean) if found.min() > 0 else plain(mean)


def are_shares(values_S: Floats, clusters: int) -> bool:
    """Whether values are scores within 0..1. Of fewer than FEWEST clusters, one value has to be exactly 0 or 1."""
    inside = bool((values_S >= 0).all() and (values_S <= 1).all())
    return inside and (clusters >= FEWEST or bool(np.isin(values_S, [0.0, 1.0]).any()))


def plain(mean: ClusteredMean) -> Interval:
    """t limits."""
    if not mean.se > 0:
        return Interval(mean.value)
    half = mean.t() * mean.se
    return Interval(mean.value, mean.value - half, mean.value + half, mean.se)


def positive(mean: ClusteredMean) -> Interval:
    """t limits of the logarithm of a positive mean (delta method)."""
    if not mean.se > 0:
        return Interval(mean.value)
    with np.errstate(over="ignore"):
        factor = float(np.exp(mean.t() * mean.se / mean.value))
    return Interval(mean.value, mean.value / factor, mean.value * factor, mean.se)


def independent_share(value: float, n: int) -> Interval:
    """Exact limits of a share of `n` independent trials."""
    low, high = share_limits(value * n, n)
    se = float(np.sqrt(value * (1 - value) / n)) or (high - low) / (2 * normal_quantile())
    return Interval(value, low, high, se)


def share(mean: ClusteredMean) -> Interval:
    """Limits of a share over clusters (Korn and Graubard 1998).

    Exact limits for the number of independent trials that would have the same standard error, made smaller by
    (z / t)^2 because that error is estimated. Where all clusters agree, each of them is one trial.
    """
    trials = mean.value * (1 - mean.value) / mean.se**2 if mean.se > 0 else float(mean.clusters)
    trials *= (normal_quantile() / mean.t()) ** 2
    low, high = share_limits(mean.value * trials, trials)
    return Interval(mean.value, low, high, mean.se if mean.se > 0 else (high - low) / (2 * mean.t()))


def share_limits(successes: float, n: float) -> tuple[float, float]:
    """Mid-p exact limits of a share (Lancaster 1961), for fractional counts too.

    Clopper and Pearson's limits count the whole probability of the observed number and cover more than they
    claim; these count half of it.
    """

    def above(p: float) -> float:
        """P(X > successes) + P(X = successes) / 2 for a share p."""
        at_least = betainc(successes, n - successes + 1, p) if successes > 0 else 1.0
        return float(at_least + (betainc(successes + 1, n - successes, p) if successes < n else 0.0)) / 2

    low = brentq(lambda p: above(p) - LEVEL / 2, 0.0, 1.0) if successes > 0 else 0.0
    high = brentq(lambda p: above(p) - 1 + LEVEL / 2, 0.0, 1.0) if successes < n else 1.0
    return float(low), float(high)


def normal_quantile(level: float = LEVEL) -> float:
    """The two-sided critical value of the normal distribution."""
    return -float(ndtri(level / 2))
