"""How an answer is read, by the official rule."""

from __future__ import annotations

import re


def parse_answer(response: str) -> str | None:
    """The letter of "The correct answer is (A)", else of "The correct answer is A", asterisks ignored."""
    text = response.strip().replace("*", "")
    for pattern in (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])"):
        if match := re.search(pattern, text):
            return match.group(1)
    return None
