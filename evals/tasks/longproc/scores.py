"""How rows of an answer are read and compared: by the rules of LongProc (github.com/princeton-pli/LongProc, 78e873a).

Its code for routes counts the first wrong row as right, and gives nothing to an answer whose end mark is missing.
Neither is followed here.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

OPEN, CLOSE = "<Route>", "</Route>"
DROPPED = re.compile(r"\b(?:a|an|the|in|on|at|is)\b")
"""Words of a state that do not count."""


def route(text: str) -> list[str]:
    """The rows between the marks; from the beginning or to the end where one of them is missing."""
    _, opened, after = text.partition(OPEN)
    inside = (after if opened else text).partition(CLOSE)[0]
    return [row.strip() for row in inside.strip().split("\n")] if inside.strip() else []


def states(text: str) -> list[str]:
    """The rows that begin with a hyphen, without case, punctuation and articles."""
    rows = (row.strip() for row in text.splitlines())
    return [_plain(row[1:]) for row in rows if row.startswith("-")]


def _plain(row: str) -> str:
    words = "".join(char for char in row.lower() if char not in string.punctuation)
    return " ".join(DROPPED.sub(" ", words).split())


def right_rows(given: Sequence[str], wanted: Sequence[str]) -> int:
    """Rows that are right before the first that is not."""
    pairs = zip(given, wanted, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(given), len(wanted)))
