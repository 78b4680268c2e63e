"""The smallest true difference that a paired test finds with probability 0.8, given the errors seen in the data."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import binom, chi2, nct

from evals.report.stats.interval import LEVEL
from evals.report.stats.means import normal_quantile

POWER = 0.8
GRID = 200
"""Quantiles of the estimated standard error over which power is averaged."""


@lru_cache(maxsize=1024)
def detectable_by_t(df: float) -> float:
    """The detectable difference of a t test, in estimated standard errors.

    The standard error that it is a multiple of is an estimate too, so power is averaged over its distribution: a
    factor that holds for the true one would promise too much where clusters are few.
    """
    critical = -float(stdtrit(df, LEVEL / 2))
    scale = np.sqrt(chi2.ppf((np.arange(GRID) + 0.5) / GRID, df) / df)

    def missing(factor: float) -> float:
        return float(np.nanmean(nct.sf(critical, df, factor * scale))) - POWER

    high = 2 * critical
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high, xtol=1e-4))


@lru_cache(maxsize=1024)
def detectable_by_scores(discordant: float, n: float) -> float:
    """The detectable difference of McNemar's test with `discordant` of `n` pairs scored differently.

    One discordant pair is added: a share that is estimated from few would promise too much. Infinite where even a
    difference on every pair is too few for the test.
    """
    share = min((discordant + 1) / (n + 1), 1.0)
    pairs = max(round(n), 1)
    if _power(1.0, share, pairs) < POWER:
        return float("inf")
    return float(brentq(lambda d: _power(d, share, pairs) - POWER, 0.0, 1.0, xtol=1e-4))


def _power(difference: float, share: float, n: int) -> float:
    """Probability that McNemar's test rejects, where a share of the pairs, at least `difference`, is discordant."""
    share = max(share, difference)
    low, high = binom.ppf([1e-9, 1 - 1e-9], n, share)
    k = np.arange(int(low), int(high) + 1)
    needed = np.ceil((k + normal_quantile() * np.sqrt(k)) / 2 - 1e-9)
    won = (1 + difference / share) / 2
    rejects = binom.sf(needed - 1, k, won) + binom.cdf(k - needed, k, won)
    return float((binom.pmf(k, n, share) * np.where(k > 0, rejects, 0.0)).sum())
