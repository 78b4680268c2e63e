"""What runs are called beside each other: the last folders of their paths, as many as tell them apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

Joined = Callable[[Sequence[str]], str]
"""Makes a name of the folders of a path."""


def labels(paths: Sequence[Path]) -> list[str]:
    """Names for people; equal paths have the same."""
    return _shortest(paths, "/".join)


def folder_names(paths: Sequence[Path]) -> list[str]:
    """Names for folders and links: all different, on file systems that ignore case too."""
    names = _shortest(paths, _in_links, str.lower)
    if len(set(map(str.lower, names))) == len(names):
        return names
    return [f"{_in_links(path.resolve().parts[-1:])}-{number}" for number, path in enumerate(paths, 1)]


def _shortest(paths: Sequence[Path], joined: Joined, same: Callable[[str], str] = str) -> list[str]:
    """Names of as many of the last folders as give different paths different names; of all where none do."""
    parts = [path.resolve().parts[1:] for path in paths]
    for depth in range(1, max(map(len, parts), default=0)):
        names = [joined(found[-depth:]) for found in parts]
        if len(set(map(same, names))) == len(set(parts)):
            return names
    return [joined(found) for found in parts]


def _in_links(parts: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip("-.") or "run" for part in parts)
