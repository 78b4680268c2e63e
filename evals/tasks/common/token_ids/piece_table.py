"""Pieces of text with their ids, as arrays: the ids of many pieces are gathered at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

Ints = np.ndarray
UNKNOWN = -1


class Tokens(NamedTuple):
    """Tokens of k pieces, n in all. ids, starts, ends: (n,); the latter in characters of the pieces put together.
    counts: tokens of each piece (k,). chars: characters of each piece (k,).
    """

    ids: Ints
    starts: Ints
    ends: Ints
    counts: Ints
    chars: Ints


class Column:
    """Whole numbers that grow in number."""

    def __init__(self) -> None:
        self._values = np.empty(1024, dtype=np.int32)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> Ints:
        return self._values[: self._size]

    def extend(self, values: Sequence[int] | Ints) -> None:
        size = self._size + len(values)
        if size > len(self._values):
            grown = np.empty(2 * size, dtype=np.int32)
            grown[: self._size] = self.values
            self._values = grown
        self._values[self._size : size] = values
        self._size = size

    def cut(self, size: int) -> None:
        """Only the first `size` stay."""
        self._size = size


class PieceTable:
    """Known pieces: row numbers by text, and for each row its tokens."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._first, self._counts, self._chars = Column(), Column(), Column()
        self._ids, self._starts, self._ends = Column(), Column(), Column()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """Of all pieces."""
        return len(self._ids)

    def rows(self, pieces: Sequence[str]) -> Ints:
        """The row of each piece (k,), UNKNOWN where there is none."""
        return np.fromiter(map(self._rows.get, pieces, repeat(UNKNOWN)), dtype=np.int64, count=len(pieces))

    def add(self, pieces: Sequence[str], tokens: Tokens, named: int) -> Ints:
        """Enter the tokens of pieces; returns their rows. named: how many of them, from the first on, are found again
        by `rows`; the others only stay until `forget`.
        """
        rows = np.arange(len(self._first), len(self._first) + len(pieces))
        before = np.repeat(_exclusive(tokens.chars), tokens.counts)
        self._first.extend(len(self._ids) + _exclusive(tokens.counts))
        self._counts.extend(tokens.counts)
        self._chars.extend(tokens.chars)
        self._ids.extend(tokens.ids)
        self._starts.extend(tokens.starts - before)
        self._ends.extend(tokens.ends - before)
        self._rows.update(zip(pieces[:named], rows[:named].tolist(), strict=True))
        return rows

    def forget(self) -> None:
        """Let go of the rows that have no name: those after the last one that has."""
        size = len(self._rows)
        if size == len(self._first):
            return
        tokens = int(self._first.values[size])
        for column, length in (
            *((column, size) for column in (self._first, self._counts, self._chars)),
            *((column, tokens) for column in (self._ids, self._starts, self._ends)),
        ):
            column.cut(length)

    def gather(self, rows: Ints) -> Tokens:
        """The tokens of the pieces of these rows, put together in this order."""
        counts, chars = self._counts.values[rows], self._chars.values[rows]
        places = np.arange(int(counts.sum())) + np.repeat(self._first.values[rows] - _exclusive(counts), counts)
        before = np.repeat(_exclusive(chars), counts)
        starts, ends = self._starts.values[places] + before, self._ends.values[places] + before
        return Tokens(self._ids.values[places], starts, ends, counts, chars)


def _exclusive(counts: Ints) -> Ints:
    """Sums of what stands before each number."""
    sums: Ints = np.cumsum(counts) - counts
    return sums
