"""Docstrings explain fields in sentences of the form `name: meaning.`; the reference shows them as a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"(?:^|(?<=[.:] ))(\w+(?:, \w+)*)(?=: \S)", re.M)
"""Names at the beginning of a line, or after a sentence or a colon."""


def as_list(text: str, known: set[str]) -> str:
    """`text` with each `name: meaning`, for names out of `known`, as an item of a list."""
    return "\n\n".join(_items(paragraph, known) for paragraph in text.split("\n\n"))


def _items(paragraph: str, known: set[str]) -> str:
    starts = [found.start() for found in FIELD.finditer(paragraph) if set(found[1].split(", ")) <= known]
    if not starts:
        return paragraph
    lead = [paragraph[: starts[0]].strip()] if starts[0] else []
    parts = (" ".join(paragraph[a:b].split()) for a, b in zip(starts, [*starts[1:], None], strict=True))
    items = "\n".join("- `{}`:{}".format(*part.split(":", 1)) for part in parts)
    return "\n\n".join([*lead, items])


class DocstringLists(griffe.Extension):
    """Applies `as_list` to classes (their fields) and functions (their parameters)."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Fields of a class are its attributes."""
        self._rewrite(cls, {name for name, member in cls.members.items() if member.is_attribute})

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """What a function's docstring explains are its parameters."""
        self._rewrite(func, {parameter.name for parameter in func.parameters})

    def _rewrite(self, item: griffe.Object, known: set[str]) -> None:
        if item.docstring is not None:
            item.docstring.value = as_list(item.docstring.value, known)
