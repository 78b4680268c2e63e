"""Files that are written whole, by way of a hidden draft beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends, and not at all where it raises."""
    draft = path.with_name(f".{path.name}")
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole: a reader sees the old or the new one."""
    with replacing(path) as file:
        file.write(content)
