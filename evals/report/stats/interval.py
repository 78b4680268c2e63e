"""An estimate with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

LEVEL = 0.05
"""Two-sided error of every interval and test, before any adjustment."""
FEWEST = 10
"""Contexts from which on intervals are given that are not exact: fewer are too few to cover (docs/protocols.md)."""


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval and standard error. The last three are NaN where the data cannot give them."""

    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    se: float = float("nan")
