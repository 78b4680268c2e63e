"""Data files: plain, .gz, .xz, or a member of a zip archive. Read as bytes, lines, text or JSON, within bounds.

Every mistake in a file becomes one sentence that names it. Nothing here trusts a size: an archive of a few kilobytes
may hold terabytes of zeros, and running out of memory over it would be charged to the model.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, cast

from evals.errors import UserError, unreadable

OPENERS = cast("Mapping[str, Callable[[Path, str], IO[bytes]]]", {".xz": lzma.open, ".gz": gzip.open})
BROKEN = (
    lzma.LZMAError,
    zlib.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    KeyError,  # a zip archive without the member
    RuntimeError,  # one with a password; NotImplementedError: compressed in a way that Python does not know
    struct.error,
    OverflowError,
)
"""What Python's readers raise for damaged files."""
LINE_BYTES = 1 << 29
"""Longest line, and longest text: far above the longest row of any benchmark, far below a machine's memory."""
BLANK_LINES = 1 << 20
"""Most blank lines in a row."""
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RowFile:
    """A file at a path, or a member of the zip archive at that path."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        name = shown(self.path)
        return f"{name}:{self.member}" if self.member else name

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes, decompressed. Raises UserError for what cannot be opened, then or while it is read."""
        try:
            require_regular(self.path)
            with self._stream() as stream:
                yield stream
        except BROKEN as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise UserError(f"{self} is broken ({reason}): download it again.") from error
        except OSError as error:
            raise unreadable(self, error) from error

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream
            return
        opener = OPENERS.get(self.path.suffix, Path.open)
        with opener(self.path, "rb") as stream:
            yield stream

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Numbers (from 1) and bytes of the lines that are not blank, without a byte-order mark."""
        with self.open() as stream:
            number = blank = 0
            while line := stream.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise UserError(f"{self}, line {number} is longer than {LINE_BYTES >> 20} MiB: split or remove it.")
                line = line.removeprefix(BOM) if number == 1 else line
                if line.strip():
                    blank = 0
                    yield number, line
                    continue
                blank += 1
                if blank > BLANK_LINES:
                    raise UserError(f"{self} has {blank} blank lines up to line {number}: remove them.")

    def read(self) -> bytes:
        """All bytes. Raises UserError for a file of more than `LINE_BYTES`."""
        with self.open() as stream:
            content = stream.read(LINE_BYTES + 1)
        if len(content) > LINE_BYTES:
            raise UserError(f"{self} is larger than {LINE_BYTES >> 20} MiB: split it into several files.")
        return content

    def text(self) -> str:
        """The text of the file, without a byte-order mark. Raises UserError for one that is not UTF-8."""
        try:
            return self.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise unreadable(self, error) from error

    def json(self) -> object:
        """The value of a JSON file. Raises UserError for one that is not JSON."""
        return load_json(self.read().removeprefix(BOM), str(self), "download it again")

    def verify(self) -> None:
        """Read a compressed file to its end. Raises UserError for one that was cut short."""
        if self.path.suffix in (".gz", ".xz"):
            _verify(self, self.path.stat().st_mtime_ns)


@cache
def _verify(file: RowFile, changed: int) -> None:
    """changed: time stamp, so that a replaced file is read again."""
    with file.open() as stream:
        while stream.read(1 << 20):
            pass


class _Twice(Exception):
    """A key that an object has twice, of which Python would keep the last."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in found if keys.count(key) > 1))
    return found


def load_json(content: bytes, where: str, remedy: str) -> object:
    """A JSON value. Raises UserError that begins with `where` and ends with `remedy`."""
    try:
        value: object = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
        if b"\\ud" in content.lower():  # the escape of half a character
            json.dumps(value, ensure_ascii=False).encode()
    except _Twice as error:
        raise UserError(f"{where} has the key {str(error)[:60]!r} twice: {remedy}.") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half a character (\\ud800 to \\udfff alone): {remedy}.") from error
    except UnicodeDecodeError as error:
        raise unreadable(where, error) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}, column {error.colno}): {remedy}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} has too long a number or too deep a nesting: {remedy}.") from error
    return value


def require_regular(path: Path) -> None:
    """Raises UserError for a pipe, a socket or a device, which would wait for ever or never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{shown(path)} is not a regular file: remove it from the folder.")


def shown(path: Path | str) -> str:
    """A path as text that can be printed and stored, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
