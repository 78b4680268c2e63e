"""Files that are written whole, by way of a hidden draft beside them, and files that only grow."""

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


class GrowingFile:
    """A file whose end is added to. Every method raises OSError where the disk fails."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, content: bytes) -> int:
        """When this returns, all of the content is on the disk; where it raises, nothing of it is in the file.

        Returns where the content begins.
        """
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)  # shrinking works on a full disk too: no torn line remains
            raise
        return end

    def close(self) -> None:
        """What was appended stays."""
        self._file.close()
