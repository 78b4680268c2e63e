"""Intervals and tests for scores of samples that come in clusters (questions on one context).

Intervals are expanded percentile bootstrap intervals over clusters. Means are computed again for every draw, so
that an interval stays inside the range of the data (a share never leaves 0..1); other statistics (a perplexity)
are drawn through the influence of each cluster on them, which needs one evaluation a cluster. The percentiles are
widened as a t interval is wider than a normal one (Hesterberg 2015, "What teachers should know about the
bootstrap", section 5.4), without which a handful of documents gives intervals that are much too narrow. BCa was
not taken: its correction is 0/0 where all samples score the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import binomtest

from evals.records.models import SampleRecord

Statistic = Callable[[Sequence[SampleRecord]], Mapping[str, float]]
Floats = NDArray[np.float64]

REPLICATES = 2000
"""Bootstrap draws."""
MOST_BLOCKS = 200
"""Clusters that a statistic is evaluated without, one after the other, at most."""
EXACT_CLUSTERS = 12
"""Up to this many clusters a randomisation test lists every arrangement instead of drawing them."""


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval and standard error; the last three are NaN where there is one cluster."""

    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    se: float = float("nan")


def cluster_codes(samples: Sequence[SampleRecord]) -> tuple[NDArray[np.int64], int]:
    """Cluster number of each sample, and the number of clusters. Without `group` a sample is its own."""
    names = [str(s.group or f"\0{s.sample}") for s in samples]
    unique, codes = np.unique(names, return_inverse=True)
    return codes.astype(np.int64), len(unique)


def metric_table(samples: Sequence[SampleRecord], names: Sequence[str]) -> Floats:
    """Metrics as an array of shape (samples, names); NaN where a sample lacks one."""
    return np.array([[s.metrics.get(n, np.nan) for n in names] for s in samples], dtype=float).reshape(-1, len(names))


def cluster_sums(values_SK: Floats, codes_S: NDArray[np.int64], clusters: int) -> tuple[Floats, Floats]:
    """Sums and counts of the metrics in each cluster, each of shape (clusters, K); NaN does not count."""
    present = ~np.isnan(values_SK)
    sums, counts = np.zeros((2, clusters, values_SK.shape[1]))
    np.add.at(sums, codes_S, np.where(present, values_SK, 0.0))
    np.add.at(counts, codes_S, present.astype(float))
    return sums, counts


def draws(clusters: int, replicates: int, seed: int) -> Floats:
    """How often each cluster is drawn in each replicate, shape (replicates, clusters); rows sum to
    `clusters`.
    """
    return np.random.default_rng(seed).multinomial(clusters, [1 / clusters] * clusters, size=replicates).astype(float)


def bootstrap_means(sums_GK: Floats, counts_GK: Floats, replicates: int, seed: int) -> Floats:
    """Bootstrap distribution of the means, shape (replicates, K)."""
    weights = draws(len(sums_GK), replicates, seed)
    with np.errstate(invalid="ignore"):
        return (weights @ sums_GK) / (weights @ counts_GK)


def interval(estimate: float, distribution: Floats, clusters: int, confidence: float = 0.95) -> Interval:
    """Expanded percentile interval and standard error from a bootstrap distribution over `clusters` clusters.

    None where the distribution is a single point: clusters that all agree do not make an estimate certain.
    """
    values = distribution[np.isfinite(distribution)]
    if clusters < 2 or not values.size or np.ptp(values) == 0:
        return Interval(estimate)
    widen = np.sqrt(clusters / (clusters - 1))
    tail = float(ndtr(widen * stdtrit(clusters - 1, (1 - confidence) / 2)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), float(values.std() * widen))


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share of `n` independent trials (Wilson 1927)."""
    z = -ndtri((1 - confidence) / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low = float(centre - half) if successes > 0 else 0.0  # exactly, where rounding would miss it
    return low, float(centre + half) if successes < n else 1.0


def mean_intervals(samples: Sequence[SampleRecord], seed: int = 0) -> dict[str, Interval]:
    """Mean of every metric with its interval, clusters by `group`.

    Where every sample of a 0..1 metric scores 0, or every one 1, the bootstrap would claim certainty; there
    the interval is Wilson's with one trial a cluster.
    """
    names = list(dict.fromkeys(name for s in samples for name in s.metrics))
    if not names:
        return {}
    values = metric_table(samples, names)
    codes, clusters = cluster_codes(samples)
    sums, counts = cluster_sums(values, codes, clusters)
    distribution = bootstrap_means(sums, counts, REPLICATES, seed)
    result = {}
    for k, name in enumerate(names):
        present = values[~np.isnan(values[:, k]), k]
        estimate = float(present.mean())
        found = interval(estimate, distribution[:, k], int((counts[:, k] > 0).sum()))
        if clusters > 1 and estimate in (0.0, 1.0) and (present == estimate).all():
            found = Interval(estimate, *wilson(estimate * clusters, clusters), se=found.se)
        result[name] = found
    return result


def influences(samples: Sequence[SampleRecord], statistic: Statistic) -> tuple[dict[str, float], dict[str, Floats]]:
    """Any statistic of a cell, and how much each cluster pulls on it: (G - 1)(whole - whole without the cluster).

    Estimate + influence is the jackknife pseudo-value (Tukey 1958); of a mean it is the cluster's own value. Where
    there are more clusters than MOST_BLOCKS, whole clusters are joined to that many blocks.
    """
    whole = {name: float(value) for name, value in statistic(samples).items()}
    codes, clusters = cluster_codes(samples)
    blocks = min(clusters, MOST_BLOCKS)
    if blocks < 2:
        return whole, {name: np.zeros(1) for name in whole}
    codes = codes % blocks
    without = [statistic([s for s, c in zip(samples, codes, strict=True) if c != b]) for b in range(blocks)]
    return whole, {
        name: np.array([(blocks - 1) * (value - w.get(name, np.nan)) for w in without]) for name, value in whole.items()
    }


def linear_interval(estimate: float, influence_G: Floats, seed: int = 0) -> Interval:
    """Interval of a smooth statistic: its clusters' influences are drawn as the values of a mean would be.

    First-order accurate, at the price of one evaluation a cluster instead of one a replicate. No interval where
    the statistic does not exist without one of the clusters, or a single one has any influence.
    """
    if np.isnan(influence_G).any() or np.count_nonzero(influence_G) < 2:
        return Interval(estimate)
    centred = influence_G - influence_G.mean()
    distribution = estimate + draws(len(centred), REPLICATES, seed) @ centred / len(centred)
    return interval(estimate, distribution, int(np.count_nonzero(influence_G)))


def statistic_intervals(samples: Sequence[SampleRecord], statistic: Statistic, seed: int = 0) -> dict[str, Interval]:
    """Any statistic of a cell (a perplexity, a mean of documents' means) with its interval, by `group`.

    Perplexities (names that begin with `ppl`) are drawn as their logarithm: their intervals are then those of the
    mean loss, and never reach below zero.
    """

    def scaled(part: Sequence[SampleRecord]) -> dict[str, float]:
        return {n: math.log(v) if n.startswith("ppl") else v for n, v in statistic(part).items()}

    whole, pulls = influences(samples, scaled)
    found = {name: linear_interval(value, pulls[name], seed) for name, value in whole.items()}
    return {name: _exponential(i) if name.startswith("ppl") else i for name, i in found.items()}


def _exponential(interval: Interval) -> Interval:
    estimate = math.exp(interval.estimate)
    return Interval(estimate, math.exp(interval.low), math.exp(interval.high), se=estimate * interval.se)


def mcnemar(first: Floats, second: Floats) -> float:
    """Exact two-sided McNemar test of two 0/1 scores on the same samples: a binomial test of the pairs that
    differ.
    """
    gains, losses = int((second > first).sum()), int((second < first).sum())
    return float(binomtest(gains, gains + losses).pvalue) if gains + losses else 1.0


def signs(clusters: int, seed: int, limit: int = 9999) -> Floats:
    """Rows of +1/-1 for a randomisation test, the first all +1.

    All 2^clusters of them where the clusters are few, else `limit` random ones.
    """
    if clusters <= EXACT_CLUSTERS:
        bits = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
        return np.where(bits, -1.0, 1.0)
    random = np.random.default_rng(seed).choice([-1.0, 1.0], size=(limit, clusters))
    return np.vstack([np.ones(clusters), random])


def randomisation_p(statistics: Floats) -> float:
    """Two-sided p-value where the first row of `statistics` is the arrangement as observed."""
    size = np.abs(statistics)
    return float((size >= size[0] * (1 - 1e-12)).mean())


def sign_flip(cluster_sums_G: Floats, seed: int = 0) -> float:
    """Two-sided randomisation test that paired differences, summed by cluster, centre on 0."""
    return randomisation_p(signs(len(cluster_sums_G), seed) @ cluster_sums_G)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p-values that bound the chance of any false difference among all of
    them.
    """
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def smallest_difference(
    se: float, pairs: int, clusters: int, binary: bool, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The true difference that a two-sided test at `alpha` shows with probability `power`.

    (z_{1-alpha/2} + z_power) x standard error of the difference. An exact test needs k clusters that all
    point the same way, 2 / 2^k <= alpha: with fewer clusters no difference can be shown (infinity), and a
    0/1 score can show none below k / pairs.
    """
    fewest = int(np.ceil(np.log2(2 / alpha)))
    if clusters < fewest:
        return float("inf")
    normal = float((-ndtri(alpha / 2) + ndtri(power)) * se)
    return max(normal, fewest / pairs) if binary else normal
