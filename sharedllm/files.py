"""Files written whole or not at all, and files from outside read with one sentence for what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make a file in one move: `write(partial)` fills a file beside it, which is synced and renamed.

    A process that is killed, or a full disk, leaves the file that was there before. Raises ValueError with what the
    system said and what to do.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # torch and safetensors have errors of their own for a disk that is full
        if isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError":
            raise ValueError(
                f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): what was there before is "
                "still there; make room or choose another folder, then run the same command again."
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text; what is not UTF-8 in a file name stays as it was (surrogateescape)."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="surrogateescape"))


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises ValueError `WHAT PATH is not ...` for whatever cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be read ({error.strerror}): make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} {path} is not valid JSON: copy or write it again.") from error


def sha256_of(path: Path) -> str:
    """Hash of every byte of a file. Raises ValueError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): make it readable.") from error


@contextmanager
def reading(what: object, advice: str) -> Iterator[None]:
    """Turn what a library raises inside into a ValueError: `what` cannot be read (reason): `advice`.

    Only library calls belong inside. Out of memory stays what it is.
    """
    try:
        yield
    except (MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a Rust library is a BaseException
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which this file does not import
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        reason = words if len(words) <= 240 else words[:240].rsplit(" ", 1)[0] + " ..."
        raise ValueError(f"{what} cannot be read ({reason.rstrip('.:')}): {advice}.") from error
