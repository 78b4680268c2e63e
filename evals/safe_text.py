"""Text from models, data and file names, made safe to show.

Control characters move the cursor, change colours or end a line; bidirectional overrides reorder what a reader sees;
lone surrogates cannot be encoded. All of them are shown as escapes.
"""

from __future__ import annotations

import json
import re

_UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls and DEL, but not tab and line feed
    r"\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"  # direction, invisible, interlinear
    r"\ud800-\udfff"
    r"\U000e0000-\U000e007f"  # tags
)
_TEXT = re.compile(f"[{_UNSAFE}]")
_LINE = re.compile(f"[{_UNSAFE}\t\n\u2028\u2029]")


def plain_text(text: str) -> str:
    """Text of several lines with unsafe characters as escapes."""
    return _TEXT.sub(_escape, text)


def plain_line(text: str) -> str:
    """The same for text that must stay on one line."""
    return _LINE.sub(_escape, text)


def plain_json(text: str) -> str:
    """A JSON document with the unsafe characters of its strings as JSON escapes: the same values, safe to print."""
    return _TEXT.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
