"""Files written whole or not at all, and JSON of other people's hands read with one sentence for what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
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
