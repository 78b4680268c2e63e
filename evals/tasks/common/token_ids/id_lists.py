"""Token ids as lists that share their numbers: a long prompt then takes eight bytes an id instead of forty."""

from __future__ import annotations

from functools import cache

import numpy as np

KNOWN = 1 << 18
"""Numbers that are shared: few vocabularies have more."""


def listed(ids: np.ndarray) -> list[int]:
    """`ids.tolist()` of ids (n,), where equal numbers are one object, in all lists that this makes."""
    if not len(ids) or int(ids.max()) >= KNOWN:
        return list(map(int, ids))
    return list(_numbers()[ids])


@cache
def _numbers() -> np.ndarray:
    return np.arange(KNOWN).astype(object)
