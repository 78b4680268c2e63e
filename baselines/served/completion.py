"""What a server sends for a completion, read without trust: openai's objects hold whatever JSON there was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BROKEN = ("abort", "error")
"""Ends of an answer that vLLM and SGLang give up; what was sent of it is no answer."""
APART = ("reasoning_content", "reasoning")
"""Where parsers of reasoning put what they take out of the text."""
NEXT = "check the address, which as a rule ends in /v1"


class StrangeError(Exception):
    """What came is no completion, or one that must not be scored. The text goes on after "The server at URL"."""


@dataclass(frozen=True)
class Piece:
    """A part of a completion, or all of it.

    text: new text. end: why the answer ended (`stop`, `length`, ...), in its last piece. prompt_tokens, new_tokens:
    what the server counts, where it says so here.
    """

    text: str = ""
    end: str | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None


def piece(sent: object) -> Piece:
    """Read one event of a stream, or a whole reply. Raises StrangeError."""
    fields = _fields(sent)
    choices, usage = fields.get("choices"), fields.get("usage")
    if not isinstance(choices, list) and not (choices is None and isinstance(usage, Mapping)):
        raise _strange(sent)
    text, end = "", None
    for choice in choices or []:
        if not isinstance(choice, Mapping):
            raise _strange(sent)
        if not choice.get("index"):  # a request may ask for several; the first is the answer
            text, end = text + _text(choice, sent), choice.get("finish_reason") or end
    counts = usage if isinstance(usage, Mapping) else {}
    return Piece(text, end, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def _fields(sent: object) -> Mapping[str, object]:
    read = getattr(sent, "to_dict", None)
    fields: object = read(warnings=False) if callable(read) else sent
    if not isinstance(fields, Mapping):
        raise _strange(sent)
    return fields


def _text(choice: Mapping[str, object], sent: object) -> str:
    if any(choice.get(name) for name in APART):
        raise StrangeError("sends its reasoning apart from the answer: start it without a parser of reasoning")
    text = choice.get("text")
    if isinstance(text, str):
        return text
    if text is not None or "delta" in choice or "message" in choice:
        raise _strange(sent)
    return ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _strange(sent: object) -> StrangeError:
    kind = type(sent).__name__ if not hasattr(sent, "to_dict") else "an object of another form"
    return StrangeError(f"answers with something else than a completion ({kind}): {NEXT}")
