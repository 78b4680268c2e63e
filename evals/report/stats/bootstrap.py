"""Draws from the distribution of a mean, for quantities that have no interval of their own."""

from __future__ import annotations

import numpy as np

from evals.report.stats.interval import Codes, Floats

DRAWS = 1000


def drawn_means(values_S: Floats, codes_S: Codes, key: str) -> Floats:
    """DRAWS means of the values under the Bayesian bootstrap over clusters (Rubin 1981), the same for the same `key`.

    Scores within 0..1 get half an observation at each end: where all samples agree, resampling alone knows no error.
    For independent 0/1 scores the draws are then those of Jeffreys' posterior, Beta(right + 1/2, wrong + 1/2).
    """
    sums_G, counts_G = np.bincount(codes_S, weights=values_S), np.bincount(codes_S).astype(float)
    shapes_G = np.ones(len(sums_G))
    if values_S.min() >= 0 and values_S.max() <= 1:
        sums_G, counts_G = np.append(sums_G, [0.0, 1.0]), np.append(counts_G, [1.0, 1.0])
        shapes_G = np.append(shapes_G, [0.5, 0.5])
    weights_BG = np.random.default_rng(list(key.encode())).standard_gamma(shapes_G, (DRAWS, len(shapes_G)))
    means_B: Floats = (weights_BG @ sums_G) / (weights_BG @ counts_G)
    return means_B
