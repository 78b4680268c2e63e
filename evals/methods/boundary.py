"""The boundary to outside files: what a library raises while reading one becomes a sentence with file and advice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, cast

from evals.errors import UserError
from sharedllm.errors import reading, reason

__all__ = [
    "AGAIN",
    "LFS_POINTER",
    "Plain",
    "check_finite",
    "lfs_pointer",
    "read_json",
    "reading",
    "reason",
]

MAX_JSON_BYTES = 1 << 26
MAX_DEPTH = 50
LFS_POINTER = b"version https://git-lfs.github.com/spec"
AGAIN = "download the file again"

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
"""A JSON value."""


def read_json(path: Path, advice: str = AGAIN) -> dict[str, Plain]:
    """The object in a JSON file (a byte-order mark is skipped). Raises UserError for anything else."""
    with reading(path, advice):
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("the file is too large for what it should be")
        content = path.read_bytes()
        if content.startswith(LFS_POINTER):
            raise UserError(lfs_pointer(path))
        value: object = json.loads(content.decode("utf-8-sig"))
        if not isinstance(value, dict):
            raise TypeError("it is not a JSON object")
    return cast("dict[str, Plain]", value)


def lfs_pointer(path: Path) -> str:
    """The message for a file that Git LFS has not fetched."""
    return f"{path} is a Git-LFS pointer, not the file itself: run `git lfs pull` in its folder, or download it."


def check_finite(value: object, depth: int = MAX_DEPTH) -> None:
    """Raises ValueError for numbers that are not finite or exceed 64 bits, and for deep nesting."""
    if depth == 0:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) < 1 << 63):
        raise ValueError("a number is not finite, or too large")
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in items:
        check_finite(item, depth - 1)
