"""A long text as ids, and sentences hidden in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from evals.errors import UserError
from evals.tasks.common import documents
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.source import DataSource

BLOCK_CHARS = 3 << 14
"""Text that is tokenised at once, 12,000 tokens of prose: a context often ends in one of the first blocks."""
MOST_EMPTY = 10_000
"""Texts in a row without a token before a haystack gives up."""


class Haystack:
    """Texts of a data source as one stream of ids that starts with text number `first` and repeats without end."""

    def __init__(self, builder: PromptBuilder, source: DataSource, first: int) -> None:
        self._builder = builder
        self._pieces = self._tokenise(islice(_endless(source), first, None))
        self._ids: list[int] = []
        self._looked_at: set[int] = set()
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
            fresh = set(new) - self._looked_at
            self._looked_at |= fresh
            self.ends |= {i for i in fresh if _ends_sentence(self._builder, i)}
        return self._ids[:tokens]

    def _tokenise(self, texts: Iterator[str]) -> Iterator[list[int]]:
        for text in texts:
            for block in self._builder.encode_blocks("\n\n" + text.strip(), after=".", chars=BLOCK_CHARS):
                yield block.ids


@lru_cache(maxsize=1 << 18)
def _ends_sentence(builder: PromptBuilder, token: int) -> bool:
    return str(builder.tokenizer.decode([token])).rstrip().endswith(".")


def _endless(source: DataSource) -> Iterator[str]:
    while True:
        yield from documents.haystack(source)


@lru_cache(maxsize=2)
def shared(builder: PromptBuilder, source: DataSource) -> Haystack:
    """The texts of a source from the first on, tokenised once for all cells of a run."""
    return Haystack(builder, source, first=0)


class Hidden(NamedTuple):
    """ids of a context with sentences in it, and where each of them begins."""

    ids: list[int]
    starts: list[int]


def window(rng: random.Random, texts: Haystack, tokens: int, length: int) -> list[int]:
    """`tokens` ids of the texts that begin with a sentence, at one of the first `length` ids."""
    pool = texts.ids(length + tokens)
    starts = [0, *(i + 1 for i in range(length - 1) if pool[i] in texts.ends)]
    start = rng.choice(starts)
    return pool[start : start + tokens]


def places(noise: Sequence[int], ends: set[int], first: float, last: float) -> list[int]:
    """Where sentences may be put in: after those of the noise that end between two percentages of it.

    Without any, the place nearest to them.
    """
    low, high = len(noise) * first / 100, len(noise) * last / 100
    all_places = [0, *(i + 1 for i, token in enumerate(noise) if token in ends)]
    inside = [place for place in all_places if low <= place <= high]
    return inside or [min(all_places, key=lambda place: abs(place - (low + high) / 2))]


def hide(noise: Sequence[int], sentences: Sequence[Sequence[int]], where: Sequence[int]) -> Hidden:
    """The noise with each sentence at its place. where: indices of the noise, in order."""
    ids: list[int] = []
    starts, at = [], 0
    for place, sentence in zip(where, sentences, strict=True):
        ids += noise[at:place]
        starts.append(len(ids))
        ids += sentence
        at = place
    return Hidden(ids + list(noise[at:]), starts)
