"""From samples to clusters: whole contexts or documents, the unit that is independent.

Shapes: S samples, K metrics, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from evals.records.models import SampleRecord
from evals.report.stats.interval import LEVEL, Codes, Floats


def cluster_codes(samples: Sequence[SampleRecord]) -> tuple[Codes, int]:
    """Cluster number of each sample, and the number of clusters. A sample without `group` is its own cluster."""
    names = [str(s.group or f"\0{s.sample}") for s in samples]
    unique, codes = np.unique(names, return_inverse=True)
    return codes.astype(np.int64), len(unique)


def metric_table(samples: Sequence[SampleRecord], names: Sequence[str]) -> Floats:
    """Metrics as an array of shape (S, K). NaN where a sample lacks a metric or its value is not finite."""
    table = np.array([[s.metrics.get(n, np.nan) for n in names] for s in samples], dtype=float)
    table = table.reshape(-1, len(names))
    return np.where(np.isfinite(table), table, np.nan)


def has_finite(sample: SampleRecord, metric: str | None = None) -> bool:
    """Whether a metric of a sample is there and finite; without `metric`, all that it has."""
    names = list(sample.metrics) if metric is None else [metric]
    return bool(names) and all(math.isfinite(sample.metrics.get(name, math.nan)) for name in names)


@dataclass(frozen=True)
class ClusteredMean:
    """A mean over samples with its cluster-robust standard error.

    se, df: NaN with fewer than two clusters. independent: every cluster is one sample.
    """

    value: float
    se: float
    df: float
    clusters: int
    independent: bool

    def t(self, level: float = LEVEL) -> float:
        """The two-sided critical value of the t distribution."""
        return -float(stdtrit(self.df, level / 2))


def clustered_mean(values_S: Floats, codes_S: Codes) -> ClusteredMean:
    """The mean of all samples, with the CR2 standard error (Bell and McCaffrey 2002). NaN values do not count."""
    present = ~np.isnan(values_S)
    if not present.any():
        return ClusteredMean(float("nan"), float("nan"), float("nan"), 0, False)
    counts = np.bincount(codes_S[present])
    sums = np.bincount(codes_S[present], weights=values_S[present])
    sums_G, counts_G = sums[counts > 0], counts[counts > 0].astype(float)
    clusters, total = len(counts_G), counts_G.sum()
    value = float(sums_G.sum() / total)
    if clusters < 2:
        return ClusteredMean(value, float("nan"), float("nan"), clusters, False)
    residuals_G = sums_G - value * counts_G
    residuals_G[np.abs(residuals_G) < 1e-12 * (np.abs(sums_G) + abs(value) * counts_G)] = 0.0  # rounding only
    with np.errstate(over="ignore"):  # values near the largest float: no error can be given
        se = float(np.sqrt((residuals_G**2 / (1 - counts_G / total)).sum()) / total)
    se = se if np.isfinite(se) else float("nan")
    return ClusteredMean(value, se, degrees_of_freedom(counts_G), clusters, bool((counts_G == 1).all()))


def degrees_of_freedom(counts_G: Floats) -> float:
    """Satterthwaite's degrees of freedom of the CR2 variance of a mean: G - 1 for clusters of equal size.

    (sum of eigenvalues)^2 / (sum of their squares) of the quadratic form that estimates the variance, under two
    working models: independent samples, and samples that are equal within a cluster. Real samples lie in between, so
    the harmonic mean of the two is taken.
    """
    total = counts_G.sum()
    u_G = counts_G / total
    q_G = counts_G**2 / (1 - u_G)
    independent = total**-2 / ((counts_G**2).sum() / total**4 + (q_G.sum() ** 2 - (q_G**2).sum()) / total**6)
    s = (u_G**2).sum()
    diagonal_G = q_G * (1 + s - 2 * u_G)
    q0, q1, q2 = q_G.sum(), (q_G * u_G).sum(), (q_G * u_G**2).sum()
    pairs = s**2 * q0**2 + 2 * q0 * q2 + 2 * q1**2 - 4 * s * q0 * q1 - (q_G**2 * (s - 2 * u_G) ** 2).sum()
    equal = diagonal_G.sum() ** 2 / ((diagonal_G**2).sum() + pairs)
    return float(2 / (1 / independent + 1 / equal))
