"""The long text, and the places in it where needles go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from evals.errors import UserError
from evals.tasks.common import documents as data
from evals.tasks.common.prompt import PromptBuilder
from evals.tasks.common.source import DataSource

MOST_EMPTY = 10_000
"""Texts in a row without a token before a haystack gives up."""


class Haystack:
    """Texts of a data source as one stream of ids that starts with text number `first` and repeats without end."""

    def __init__(self, builder: PromptBuilder, source: DataSource, first: int) -> None:
        self._builder = builder
        self._pieces = self._tokenise(islice(_endless(source), first, None))
        self._ids: list[int] = []
        self.ends: set[int] = set()
        """Ids seen so far that end a sentence, whatever the vocabulary glues to a full stop."""

    def ids(self, tokens: int) -> list[int]:
        """The first `tokens` ids."""
        empty = 0
        while len(self._ids) < tokens:
            new = next(self._pieces)
            empty = 0 if new else empty + 1
            if empty == MOST_EMPTY:
                raise UserError("The tokenizer gives no ids for the texts of the haystack: use other texts.")
            self._ids += new
            self.ends |= {i for i in set(new) - self.ends if self._text(i).rstrip().endswith(".")}
        return self._ids[:tokens]

    def _tokenise(self, texts: Iterator[str]) -> Iterator[list[int]]:
        for text in texts:
            for block in self._builder.encode_blocks("\n\n" + text.strip(), after="."):
                yield block.ids

    def _text(self, token: int) -> str:
        return str(self._builder.tokenizer.decode([token]))


def _endless(source: DataSource) -> Iterator[str]:
    while True:
        yield from data.haystack(source)


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


def insert(
    hay: Sequence[int], needles: Sequence[Sequence[int]], depth: float, ends: set[int]
) -> tuple[list[int], list[int]]:
    """The haystack with every needle at its `depth_of`, and where each begins.

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
    context: list[int] = []
    starts, at = [], 0
    for place, needle in zip(places, needles, strict=True):
        context += hay[at:place]
        starts.append(len(context))
        context += needle
        at = place
    return context + list(hay[at:]), starts
