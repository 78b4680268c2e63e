"""Whether two texts share passages: a copy of the scored text must never serve as the context of the control `other`.

Texts are compared by their runs of eight words (w-shingling, Broder 1997), so that copies with other headers, cuts
or small changes are found as well.
"""

from __future__ import annotations

import re
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
_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")
"""A word; one character of the scripts that put no space between words."""
_FACTORS = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(WORDS)], dtype=np.uint64)

Runs = np.ndarray
"""Hashes (n,) uint64 of a text's runs of words, sorted, each once."""


def runs(text: str) -> Runs:
    """The runs of a text; a text of fewer than WORDS words is one run. Case and punctuation do not count."""
    if len(text) > 2 * SCANNED_CHARS:
        text = f"{text[:SCANNED_CHARS]} {text[-SCANNED_CHARS:]}"
    found = _WORD.findall(text.lower())
    sums = {word: crc32(word.encode()) for word in set(found)}
    words = np.fromiter(map(sums.__getitem__, found), dtype=np.uint64, count=len(found))
    words = np.pad(words, (0, max(WORDS - len(words), 0)))
    count = len(words) - WORDS + 1
    hashes = np.sort(sum(factor * words[k : k + count] for k, factor in enumerate(_FACTORS)))
    once: Runs = hashes[np.append(True, hashes[1:] != hashes[:-1])]  # np.unique takes twenty times as long
    return once


def shared(a: Runs, b: Runs) -> float:
    """Share of the smaller set's runs that the other one has."""
    return float(len(np.intersect1d(a, b, assume_unique=True)) / min(len(a), len(b)))
