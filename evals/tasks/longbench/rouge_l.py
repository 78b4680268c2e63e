"""ROUGE-L as PyPI `rouge` 1.0.1 computes it, recursion limit included.

LongBench's published scores are numbers of that package, and differ from those of `rouge-score`:
- no lower-casing and no stemming; sentences end at every "."; words are split at single spaces;
- precision and recall divide the *union* of the longest common subsequences, as a set of words, by the sets
  of words; f = 2pr / (p + r + 1e-8);
- an empty text, or one of dots alone, raises, which LongBench scores as 0;
- a subsequence is read off by a recursion, one call a step. Python stops it at 1000 frames, and LongBench
  scores that as 0 too. It happens in sentence pairs of about a thousand words in total: in `vcsum` and
  `dureader`, whose "。" ends no sentence, and in run-on generations.

Here the walk is a loop and its steps are counted, so a score does not depend on how deep the caller's stack
is; a pair whose common words are all in the union already is skipped, which changes nothing and saves most of
the time. The tests compare every number with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OFFICIAL_CALLS = 991
"""Nested calls left to the recursion under the official eval.py: 1000 frames less its own and the package's.
`rouge_zh_score` adds one frame of its own."""


@dataclass(frozen=True)
class RougeL:
    """f in 0..1. recursion: the official scorer would have hit Python's recursion limit, and f is 0."""

    f: float
    recursion: bool = False


def rouge_l(prediction: str, reference: str, max_calls: int = OFFICIAL_CALLS) -> RougeL:
    """Summary-level ROUGE-L F of two texts whose words are separated by white space."""
    hypothesis, gold = _sentences(prediction), _sentences(reference)
    if not hypothesis or not gold:
        return RougeL(0.0)
    union: set[str] = set()
    for ref in gold:
        for hyp in hypothesis:
            shared = set(ref) & set(hyp)
            if shared <= union and len(ref) + len(hyp) < max_calls:
                continue
            common, calls = _common_subsequence(ref, hyp)
            if calls > max_calls:
                return RougeL(0.0, recursion=True)
            union.update(common)
    precision = len(union) / len({word for sentence in hypothesis for word in sentence})
    recall = len(union) / len({word for sentence in gold for word in sentence})
    return RougeL(2.0 * precision * recall / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    """Words of each sentence. A sentence of white space alone is one empty word, as in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_subsequence(x: Sequence[str], y: Sequence[str]) -> tuple[list[str], int]:
    """The longest common subsequence that the package picks (last word first), and its number of nested calls."""
    table = [[0] * (len(y) + 1)]
    for word in x:
        above, row = table[-1], [0]
        left = 0
        for j, other in enumerate(y):
            if word == other:
                left = above[j] + 1
            elif above[j + 1] > left:
                left = above[j + 1]
            row.append(left)
        table.append(row)
    i, j, calls, picked = len(x), len(y), 1, []
    while i and j:
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            picked.append(x[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
        calls += 1
    return picked, calls
