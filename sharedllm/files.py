"""Files written whole or not at all, and files from outside read with one sentence for what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from sharedllm.errors import UserError


def cache_folder() -> Path:
    """The cache folder: below `XDG_CACHE_HOME` if set, else where the platform keeps caches.

    Raises UserError if there is no home folder.
    """
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "sharedllm"
    missing = "There is no home folder to keep a cache in: name a folder in XDG_CACHE_HOME."
    try:
        folder = platformdirs.user_cache_path("sharedllm", appauthor=False, opinion=False)
    except RuntimeError as error:  # a user id that the system does not know
        raise UserError(missing) from error
    if not folder.is_absolute():  # `~` is not expanded if there is no home folder
        raise UserError(missing)
    return folder


def write_whole(path: Path, write: Callable[[Path], object], *, synced: bool = True) -> None:
    """Make a file in one move: `write(partial)` fills a file beside it, which is synced and renamed.

    A process that is killed, or a full disk, leaves the file that was there before. synced: so does a machine that
    fails, for which the disk is waited for. Raises UserError as `writing`.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            if synced:
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system or a library says while a file is written into a UserError with what to do."""
    try:
        yield
    except Exception as error:
        # torch and safetensors have errors of their own for a disk that is full
        if not (isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"):
            raise
        raise UserError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): what was there before is "
            "still there; make room or choose another folder, then run the same command again."
        ) from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text; what is not UTF-8 in a file name stays as it was (surrogateescape)."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="surrogateescape"))


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises UserError `WHAT PATH is not ...` for whatever cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror}): make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not valid JSON: copy or write it again.") from error


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name; a name that no file can have is none."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def sha256_of(path: Path) -> str:
    """Hash of every byte of a file. Raises UserError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable.") from error
