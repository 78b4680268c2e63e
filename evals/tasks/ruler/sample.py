"""What every generator family produces, and how a haystack shrinks until it fits."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Sample:
    """The text of one instance: before + context + lead + question + answer_prefix.

    question: what is asked (the span that a search may look at); `lead` stands between it and the context.
    answers: official references. meta: for plots and reports.
    """

    before: str
    context: str
    lead: str
    question: str
    answer_prefix: str
    answers: list[str]
    meta: dict[str, list[float]] = field(default_factory=dict)


class Family(ABC):
    """A generator of samples whose haystack has a size in units of its own (sentences, words, documents)."""

    family: ClassVar[str]
    """Name of the template."""
    new_tokens: ClassVar[int]
    """Tokens to generate, part of the length."""

    @property
    def count(self) -> int | None:
        """Number of instances; None: no limit."""
        return None

    @property
    def largest(self) -> int | None:
        """Number of units; None: the haystack is endless."""
        return None

    @abstractmethod
    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        """Instance number `index` with a haystack of `size` units, drawn from `rng` alone."""

    def smallest(self, index: int) -> int:
        """Units that instance `index` cannot do without."""
        return 1


def shrinking(size: int, smallest: int) -> Iterator[int]:
    """`size`, then 2% less each time, down to `smallest`.

    The official steps are fixed (500 words of essay, 25 sentences of noise), which takes a sixth of a 4K prompt
    at once; 2% keeps every prompt close to the length of its cell.
    """
    while size > smallest:
        yield size
        size -= max(1, size // 50)
    yield smallest
