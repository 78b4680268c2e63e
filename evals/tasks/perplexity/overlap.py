"""Whether two texts share passages: a copy of the scored text must never serve as the context of the control `other`.

Texts are compared by their runs of eight words (w-shingling, Broder 1997), so that copies with other headers, cuts
or small changes are found as well.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from zlib import crc32

import numpy as np

WORDS = 8
"""Words of a run; 8 words in a row are rarely the same by chance."""
SHARE = 0.05
"""Share of the shorter text's runs from which on two texts count as copies of each other."""
TARGET_SHARE = 0.2
"""The same for the scored tokens, which are few: a formula or a licence may be quoted."""
SCANNED_CHARS = 200_000
"""Of each end of a document."""
_ALONE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
"""Characters of the scripts that put no space between words: each counts as a word."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_FACTORS = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(WORDS)], dtype=np.uint64)

Runs = np.ndarray
"""Hashes (n,) uint64 of a text's runs of words, sorted, each once."""
Span = tuple[int, int]
"""Of characters."""


def runs(text: str) -> Runs:
    """The runs of a text; a text of fewer than WORDS words is one run. Case and punctuation do not count."""
    if len(text) > 2 * SCANNED_CHARS:
        text = f"{text[:SCANNED_CHARS]} {text[-SCANNED_CHARS:]}"
    lowered = text.lower()
    return _runs(_hashed(_words(lowered, _kinds(lowered))))


class Words:
    """The words of a part of a text, read once: the runs of all its pieces follow from them. span: of the part."""

    def __init__(self, text: str, span: Span) -> None:
        self._text, self.span = text, span
        lowered = text[slice(*span)].lower()
        self._apart = len(lowered) == span[1] - span[0] and "Σ" not in text[slice(*span)]
        """Whether a character in lower case is the same character whatever stands beside it."""
        kinds = _kinds(lowered)
        self._starts, self._ends = (bounds + span[0] for bounds in _bounds(kinds))
        self._words = _hashed(_words(lowered, kinds))

    def runs(self, span: Span) -> Runs:
        """`runs` of a piece of the text that lies in the part."""
        start, stop = span
        if not self._apart:
            return runs(self._text[start:stop])
        if stop - start <= 2 * SCANNED_CHARS:
            return _runs(self._of(start, stop))
        return _runs(np.append(self._of(start, start + SCANNED_CHARS), self._of(stop - SCANNED_CHARS, stop)))

    def _of(self, start: int, stop: int) -> np.ndarray:
        """Hashes of the words of a piece, whose ends may cut through a word."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._starts, stop))
        words = self._words[first:last].copy()
        for place in {first, last - 1} if first < last else ():
            cut = self._text[max(self._starts[place], start) : min(self._ends[place], stop)]
            words[place - first] = _hash(cut.lower())
        return words


def shared(a: Runs, b: Runs) -> float:
    """Share of the smaller set's runs that the other one has."""
    return float(len(np.intersect1d(a, b, assume_unique=True)) / min(len(a), len(b)))


def _hash(word: str) -> int:
    return crc32(word.encode())


def _hashed(words: list[str]) -> np.ndarray:
    """Hashes (n,) of words in lower case."""
    sums = {word: _hash(word) for word in set(words)}
    return np.fromiter(map(sums.__getitem__, words), dtype=np.uint64, count=len(words))


def _runs(words: np.ndarray) -> Runs:
    """words: hashes (n,)."""
    words = np.pad(words, (0, max(WORDS - len(words), 0)))
    count = len(words) - WORDS + 1
    hashes = np.sort(sum(factor * words[k : k + count] for k, factor in enumerate(_FACTORS)))
    once: Runs = hashes[np.append(True, hashes[1:] != hashes[:-1])]  # np.unique takes twenty times as long
    return once


class _Kinds(NamedTuple):
    """Characters (n,): their codes, whether they are of words, and whether they are words alone."""

    codes: np.ndarray
    inside: np.ndarray
    single: np.ndarray


def _kinds(lowered: str) -> _Kinds:
    codes = np.frombuffer(lowered.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    in_word = np.zeros(1 + int(codes.max(initial=0)), dtype=bool)
    alone = in_word.copy()
    present = np.flatnonzero(np.bincount(codes))
    in_word[present] = [_WORD.match(chr(code)) is not None for code in present]
    alone[present] = [re.match(f"[{_ALONE}]", chr(code)) is not None for code in present]
    return _Kinds(codes, in_word[codes], alone[codes])


def _words(lowered: str, kinds: _Kinds) -> list[str]:
    """The words of `_WORD`: split at once where none stands alone, in a third of the time that matches take."""
    if kinds.single.any():
        return _WORD.findall(lowered)
    spaced = np.where(kinds.inside, kinds.codes, np.uint32(ord(" ")))
    return spaced.tobytes().decode("utf-32-le", "surrogatepass").split()


def _bounds(kinds: _Kinds) -> tuple[np.ndarray, np.ndarray]:
    """Where the words of `_WORD` begin and end, (n,) each. Faster than a match at a time."""
    _, inside, single = kinds
    joined = inside[1:] & inside[:-1] & ~single[1:] & ~single[:-1]
    starts, ends = inside.copy(), inside.copy()
    starts[1:] &= ~joined
    ends[:-1] &= ~joined
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1
