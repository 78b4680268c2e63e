"""Docstrings explain fields as lines of the form `name: meaning`; the reference shows such lines as a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^(\w+(?:, \w+)*)(?=: \S)", re.M)


def as_list(text: str, known: set[str]) -> str:
    """`text` with each line that begins with names out of `known` and a colon as an item of a list."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = FIELD.match(line)
        if found and set(found[1].split(", ")) <= known:
            lines += [] if inside else [""]
            lines.append(f"- `{found[1]}`{line[found.end() :]}")
            inside = True
            continue
        inside = inside and line.startswith((" ", "\t"))
        lines.append(line)
    return "\n".join(lines)


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
