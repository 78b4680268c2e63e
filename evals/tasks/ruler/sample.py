"""What every generator family produces, and how large a haystack fits into a length."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
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


def fitting_size(tokens: Callable[[int], int], length: int, smallest: int, largest: int | None) -> int:
    """The largest haystack whose prompt, by `tokens(size)`, stays within `length`; at least `smallest`.

    Doubles, then searches between the last two sizes. Tokens grow almost in proportion to size, so the search
    looks where the straight line crosses the length instead of in the middle: a 128K prompt is built some five
    times instead of fifteen.
    """
    low, low_tokens = smallest, tokens(smallest)
    high, high_tokens = low, low_tokens
    while high_tokens <= length:
        if high == largest:
            return high
        low, low_tokens = high, high_tokens
        high = high * 2 if largest is None else min(high * 2, largest)
        high_tokens = tokens(high)
    while high - low > 1:
        crossing = low + (high - low) * (length - low_tokens) / max(high_tokens - low_tokens, 1)
        middle = min(max(int(crossing), low + 1), high - 1)
        middle_tokens = tokens(middle)
        if middle_tokens <= length:
            low, low_tokens = middle, middle_tokens
        else:
            high, high_tokens = middle, middle_tokens
    return low


def shrinking(size: int, smallest: int) -> Iterator[int]:
    """`size`, then 2% less each time, down to `smallest`.

    The official steps are fixed (500 words of essay, 25 sentences of noise), which takes a sixth of a 4K prompt
    at once; 2% keeps every prompt close to the length that its cell claims.
    """
    while size > smallest:
        yield size
        size -= max(1, size // 50)
    yield smallest
