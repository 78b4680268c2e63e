"""What every generator family produces, and the sizes to try for a haystack."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Sample:
    """The text of one instance: before + context + question + answer_prefix.

    question: what is asked (the span that a search may look at), `lead` what stands between it and the context.
    answers: official references. meta: for plots and reports.
    """

    before: str
    context: str
    lead: str
    question: str
    answer_prefix: str
    answers: list[str]
    meta: dict[str, Any] = field(default_factory=dict)


class Family(ABC):
    """A generator of samples whose haystack has a size in units of its own (sentences, words, documents)."""

    family: ClassVar[str]
    """Name of the template."""
    new_tokens: ClassVar[int]
    """Tokens to generate, part of the length."""
    count: int | None = None
    """Instances there are; None: as many as one likes."""
    largest: int | None = None
    """Units there are; None: the haystack is endless."""

    @abstractmethod
    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        """Instance number `index` with a haystack of `size` units, drawn from `rng` alone."""

    def smallest(self, index: int) -> int:
        """Units that instance `index` cannot do without."""
        return 1


def shrinking(size: int, smallest: int) -> Iterator[int]:
    """`size`, then 2% less each time, down to `smallest`.

    The official steps are fixed (500 words of essay, 25 sentences of noise), which takes a sixth of a 4K prompt
    at once; 2% keeps every prompt close to the length that its cell claims.
    """
    while size > smallest:
        yield size
        size -= max(1, size // 50)
    yield smallest
