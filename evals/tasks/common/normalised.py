"""An answer without differences of form that no reader minds: for a second score beside the official one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_GROUPED = re.compile(
    r"(?<![\w.,])\d{1,3}(?:([,'’_\u00a0\u2009\u202f٬])\d{3}(?:\1\d{3})*|([. ])\d{3}(?:\2\d{3})+)(?![\w])(?![.,]\d)"
)
"""A number in groups of three digits. A full stop or a space may be something else, so they need two groups."""
_MARKDOWN = re.compile(r"\*+|__+|`+|^[ \t]*(?:#{1,6}|>|[-+])[ \t]+", re.MULTILINE)
_TRAILING = " \t\r\n.,;:!?\"'”’)]}。，；：！？"


def tidy(text: str) -> str:
    """A text with plain digits, numbers without separators, no markdown, and no punctuation at its end."""
    text = "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text)
    text = _GROUPED.sub(lambda number: re.sub(r"\D", "", number.group()), _MARKDOWN.sub("", text))
    return text.strip().rstrip(_TRAILING)


def normalised(answer: str, reference: object) -> str:
    """The tidy answer, with what it says of the reference written as the reference has it (case, separators).

    reference: JSON; all strings in it count. Whole words only: 51234 does not become 51,234 for a reference 1,234.
    """
    text = tidy(answer)
    for wanted in dict.fromkeys(_strings(reference)):
        if plain := tidy(wanted):
            text = re.sub(rf"(?<!\w){re.escape(plain)}(?!\w)", lambda _, w=wanted: w, text, flags=re.IGNORECASE)  # type: ignore[misc]
    return text


def _strings(reference: object) -> Iterator[str]:
    if isinstance(reference, str):
        yield reference
    elif isinstance(reference, dict | list | tuple):
        for part in reference.values() if isinstance(reference, dict) else reference:
            yield from _strings(part)
