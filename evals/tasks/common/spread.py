"""Some of many rows, evenly spread."""

from __future__ import annotations

GOLDEN_RATIO = 0.6180339887498949


def spread(numbers: list[int], limit: int) -> set[int]:
    """`limit` of the numbers, evenly spread; a larger limit keeps those of a smaller one.

    Multiples of the golden ratio modulo 1 leave no large gap after any number of them, so the first of
    `numbers` in that order reach every depth of a sweep.
    """
    return {numbers[i] for i in sorted(range(len(numbers)), key=order)[:limit]}


def order(index: int) -> float:
    """What `spread` sorts by."""
    return ((index + 1) * GOLDEN_RATIO) % 1.0
