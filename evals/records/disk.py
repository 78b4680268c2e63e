"""Files that are written whole, by way of a hidden draft beside them, and files that only grow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
        end = self._write(content)
        self._sync(end)
        return end

    def close(self) -> None:
        """What was appended stays."""
        self._file.close()

    def _write(self, content: bytes) -> int:
        """The content is in the file, and survives this process."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:]) or 0
        except OSError:
            self._file.truncate(end)  # shrinking works on a full disk too: no torn line remains
            raise
        return end

    def _sync(self, end: int) -> None:
        """The file is on the disk, and survives the machine. end: where it ends if it is not."""
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise


class LateFile(GrowingFile):
    """A growing file whose owner does not wait for the disk: a disk takes milliseconds, in which a small model answers.

    When `append` returns, the content is in the file, where the end of this process cannot harm it, and on its way to
    the disk; all content before is on the disk. Where the disk fails, the next call raises.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._under_way: Future[None] | None = None

    def append(self, content: bytes) -> int:
        self.settle()
        end = self._write(content)
        self._under_way = self._thread.submit(self._sync, end)
        return end

    def settle(self) -> None:
        """When this returns, all content is on the disk. Where it is not, every further call raises: what was lost is
        no longer in the file, and nobody may count on it.
        """
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def close(self) -> None:
        try:
            self.settle()
        finally:
            self._thread.shutdown()
            super().close()
