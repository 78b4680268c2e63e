"""`fuzz.ratio` as fuzzywuzzy 0.18 computes it without python-Levenshtein.

LongBench's code scores are numbers of fuzzywuzzy on difflib. Where python-Levenshtein is installed, fuzzywuzzy
takes another algorithm without a word (LongAlpaca's lcc then reads 59.82 in place of 57.61), and thefuzz and
rapidfuzz always do. So difflib is called directly, and an installed accelerator cannot change a score.
"""

from __future__ import annotations

from difflib import SequenceMatcher


def ratio(a: str, b: str) -> int:
    """Similarity from 0 to 100. Equal texts, also two empty ones, give 100; one empty text gives 0."""
    if a == b:
        return 100
    if not a or not b:
        return 0
    return round(100 * SequenceMatcher(None, a, b).ratio())
