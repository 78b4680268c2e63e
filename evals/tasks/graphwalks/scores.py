"""How answers are read and scored: by the rules of openai/graphwalks.

The code on its card departs from them: the first node keeps the text `Final Answer: [`, and sets without overlap get 1.
Neither is followed here.
"""

from __future__ import annotations

import re
from collections.abc import Collection

MARK = "Final Answer:"
BEGUN = f"{MARK} ["
"""Begins the answer of a model without a chat template."""


def parse(text: str) -> list[str] | None:
    """The nodes of the last line, `Final Answer: [a, b]`; None where the line does not have this form."""
    line = text.rstrip().rpartition("\n")[2]
    found = re.search(rf"{MARK} ?\[(.*)\]", line)
    return None if found is None else [name for part in found[1].split(",") if (name := part.strip())]


def set_f1(answer: Collection[str], truth: Collection[str]) -> float:
    """F1 of two sets: 1 where both are empty, 0 where they share nothing."""
    given, wanted = set(answer), set(truth)
    if not given and not wanted:
        return 1.0
    return 2 * len(given & wanted) / (len(given) + len(wanted))
