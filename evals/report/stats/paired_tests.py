"""Paired tests. Each interval is the inversion of its test: a p-value is at most alpha exactly where the interval at
1 - alpha leaves out 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, stdtr, stdtrit

from evals.records.models import SampleRecord
from evals.report.stats.clusters import ClusteredMean, clustered_mean
from evals.report.stats.interval import LEVEL, Codes, Floats
from evals.report.stats.means import are_shares, normal_quantile
from evals.report.stats.power import detectable_by_scores, detectable_by_t
from evals.report.stats.statistics import LOGARITHMIC, Statistic, influences, jackknife, logarithmic


class PairedTest(Protocol):
    """A difference between two models on the same samples."""

    @property
    def name(self) -> str:
        """Name of the test, for tables."""

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference; 1 where the data allow no test."""

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval at confidence 1 - level; NaN where the data allow none."""

    def detectable(self) -> float:
        """The true difference that this test finds with probability 0.8 at LEVEL; infinite where it cannot."""


@dataclass(frozen=True)
class StudentTest:
    """t test of a mean difference over clusters."""

    mean: ClusteredMean
    name: str = "t over groups"

    @property
    def p(self) -> float:
        return float(2 * stdtr(self.mean.df, -abs(self.mean.value) / self.mean.se)) if self.mean.se > 0 else 1.0

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        if not self.mean.se > 0:
            return float("nan"), float("nan")
        half = -float(stdtrit(self.mean.df, level / 2)) * self.mean.se
        return self.mean.value - half, self.mean.value + half

    def detectable(self) -> float:
        return detectable_by_t(self.mean.df) * self.mean.se if self.mean.se > 0 else float("inf")


@dataclass(frozen=True)
class RatioTest:
    """t test of the logarithm of a ratio (of two perplexities): the test of the mean loss.

    first: the estimate of the first model. The limits are those of the ratio, as a difference from `first`.
    """

    first: float
    logarithm: StudentTest
    name: str = "t over groups, log"

    @property
    def p(self) -> float:
        return self.logarithm.p

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        low, high = self.logarithm.limits(level)
        return self._difference(low), self._difference(high)

    def detectable(self) -> float:
        return self._difference(self.logarithm.detectable())

    def _difference(self, logarithm: float) -> float:
        with np.errstate(over="ignore"):
            return float(self.first * np.expm1(logarithm))


@dataclass(frozen=True)
class ScoreTest:
    """McNemar's test of two 0/1 scores on the same samples, and Tango's interval (1998), which inverts it.

    gains, losses: pairs in which only the second, or only the first, is right. n: all pairs.
    """

    gains: float
    losses: float
    n: float
    name: str = "McNemar"

    @property
    def p(self) -> float:
        return float(2 * ndtr(-abs(self._score(0.0))))

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        """Differences whose score statistic stays within the critical value."""
        z, end = normal_quantile(level), 1 - 1e-9
        estimate = (self.gains - self.losses) / self.n
        low = brentq(lambda d: self._score(d) - z, -end, estimate) if self._score(-end) > z else -1.0
        high = brentq(lambda d: self._score(d) + z, estimate, end) if self._score(end) < -z else 1.0
        return float(low), float(high)

    def detectable(self) -> float:
        return detectable_by_scores(self.gains + self.losses, self.n)

    def _score(self, difference: float) -> float:
        """(gains - losses - n d) over its standard error where the true difference is d (Tango 1998, eq. 6)."""
        n, d = self.n, difference
        distance = self.gains - self.losses - n * d
        b = -self.gains - self.losses + (2 * n - self.gains + self.losses) * d
        c = -self.losses * d * (1 - d)
        losing = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * losing + d * (1 - d))
        if variance > 1e-12 * n:
            return distance / math.sqrt(variance)
        return 0.0 if abs(distance) < 1e-12 * n else math.copysign(math.inf, distance)


def paired_scores(first_S: Floats, second_S: Floats, codes_S: Codes) -> PairedTest:
    """The test of a mean difference of two scores, shape (S,) each, in clusters `codes_S`.

    McNemar for 0/1 scores of independent samples. It also serves, with one trial per cluster, where all clusters of
    scores within 0..1 agree: they leave nothing to estimate an error from. Else a t test over clusters.
    """
    both = np.stack([first_S, second_S])
    difference = clustered_mean(second_S - first_S, codes_S)
    if difference.clusters < 2 or not are_shares(both, difference.clusters):
        return StudentTest(difference)
    if difference.independent and np.isin(both, [0.0, 1.0]).all():
        return ScoreTest(float((second_S > first_S).sum()), float((second_S < first_S).sum()), len(first_S))
    if difference.se > 0:
        return StudentTest(difference)
    shift = difference.value * difference.clusters
    return ScoreTest(max(shift, 0.0), max(-shift, 0.0), difference.clusters, "McNemar by group")


def paired_statistic(
    first: Sequence[SampleRecord], second: Sequence[SampleRecord], statistic: Statistic, metric: str
) -> tuple[float, float, PairedTest] | None:
    """A metric that only its task can compute, for both sides, and the test of its difference.

    None where it is not finite for one of them.
    """
    (a, pulls_a), (b, pulls_b) = (influences(side, logarithmic(statistic)) for side in (first, second))
    if metric not in a or metric not in b:
        return None
    return paired_influences((a[metric], pulls_a[metric]), (b[metric], pulls_b[metric]), metric)


def paired_influences(
    first: tuple[float, Floats], second: tuple[float, Floats], metric: str
) -> tuple[float, float, PairedTest] | None:
    """The same from each side's estimate (a perplexity as its logarithm) and influences of clusters (G,)."""
    (a, pulls_a), (b, pulls_b) = first, second
    test = StudentTest(jackknife(b - a, pulls_b - pulls_a))
    if not metric.startswith(LOGARITHMIC):
        return a, b, test
    with np.errstate(over="ignore"):
        before, after = float(np.exp(a)), float(np.exp(b))
    return (before, after, RatioTest(before, test)) if np.isfinite([before, after]).all() else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p-values that bound the chance of any false difference among all of them."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def holm_level(p_values: Sequence[float]) -> float:
    """The level of the intervals that agree with Holm's verdicts.

    Holm stops at the first of the ordered p-values, with R below it, that exceeds LEVEL / (m - R). All intervals at
    that level leave out 0 exactly where the hypothesis was rejected.
    """
    rejected = sum(p <= LEVEL for p in holm(p_values))
    return LEVEL / max(len(p_values) - rejected, 1)
