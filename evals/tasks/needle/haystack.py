"""The places in a long text where needles go."""

from __future__ import annotations

from collections.abc import Sequence

from evals.tasks.common.haystack import Hidden, hide


def spread(depths: Sequence[float]) -> list[float]:
    """Both ends first, then always the depth farthest from those before it (the smaller one where equal)."""
    left = sorted(set(depths))
    order = [left.pop(0)]
    while left:
        farthest = max(left, key=lambda depth: min(abs(depth - other) for other in order))
        order.append(farthest)
        left.remove(farthest)
    return order


def depth_of(needle: int, needles: int, depth: float) -> float:
    """Percent of the haystack before each needle: the first at `depth`, the others evenly after it."""
    return depth + needle * (100 - depth) / needles


def insert(hay: Sequence[int], needles: Sequence[Sequence[int]], depth: float, ends: set[int]) -> Hidden:
    """The haystack with every needle at its `depth_of`.

    A needle stands after the last sentence end (an id of `ends`) at or before its place; without one it stands
    first. At 100 percent it is appended. (gkamradt, insert_needle and insert_needles.)
    """
    places = []
    for k in range(len(needles)):
        percent = depth_of(k, len(needles), depth)
        place = len(hay) if percent >= 100 else int(len(hay) * percent / 100)
        while percent < 100 and place and hay[place - 1] not in ends:
            place -= 1
        places.append(place)
    return hide(hay, needles, places)
