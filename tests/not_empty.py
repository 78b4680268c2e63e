"""Tests that look at every one of some values must not pass because there are none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Value = TypeVar("Value")


def not_empty(values: Iterable[Value]) -> list[Value]:
    """The values. Fails where there are none, since a loop over nothing asserts nothing."""
    found = list(values)
    assert found, "there is nothing to look at"
    return found
