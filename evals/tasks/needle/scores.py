"""How answers to needle questions are scored."""

from __future__ import annotations

import re
import unicodedata

GROUPED = re.compile(r"(\d{1,4})([,.'’_ \u00a0\u2009\u202f，٬-])\d{2,4}(?:\2\d{2,4})*(?!\d)")
"""A number in groups of digits with one separator: 1,234,567 or 12 34 567. A full stop, a comma and a space that end
a number or a sentence are followed by something else."""


def score_number(text: str, value: str) -> dict[str, float]:
    """exact_match: the first number is the value. digit_accuracy: share of its digits that are right at their place.

    strict_match: the same for the first run of digits, where 1,234,567 is the number 1.
    """
    text = "".join(str(unicodedata.digit(c, c)) if c.isdecimal() else c for c in text)  # full-width digits and others
    run = re.search(r"\d+", text)
    strict = run.group() if run else ""
    grouped = GROUPED.match(text, run.start()) if run else None
    digits = re.sub(r"\D", "", grouped.group()) if grouped else strict
    right = sum(a == b for a, b in zip(digits, value, strict=False))
    return {
        "exact_match": float(digits == value),
        "digit_accuracy": right / len(value),
        "strict_match": float(strict == value),
    }


def score_sentence(text: str, answer: str) -> dict[str, float]:
    """exact_match: the whole answer occurs in the text. recall: share of its words that do (`word_recall`)."""
    whole = answer.lower() in " ".join(text.lower().split())
    return {"exact_match": float(whole), "recall": word_recall(text, answer)}


def word_recall(text: str, answer: str) -> float:
    """Share of the answer's different words that occur in the text, whatever their case and punctuation."""
    wanted = set(re.findall(r"\w+", answer.lower()))
    return len(wanted & set(re.findall(r"\w+", text.lower()))) / len(wanted)
