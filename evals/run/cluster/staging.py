"""Data that a node lacks: a small data folder travels from the driver to it, through Ray's object store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from evals.hashing import digest_of_tree
from evals.run.grid import Cell
from evals.run.identity import files_below
from sharedllm.files import cache_folder

MOST_BYTES = 1 << 30
"""A larger folder is not sent: it belongs on a disk that the nodes share."""


@dataclass(frozen=True)
class Parcel:
    """What tasks read below a data folder. name: of the folder, or file, that `--data-dir` named, below the root of
    `files`; empty where that is the root. files: their bytes, by path. key: hash of both."""

    name: str
    files: dict[str, bytes]
    key: str


def pack(cells: Sequence[Cell], data: Path) -> Parcel | None:
    """The files at or below `data` that the cells read; None where there are none, or more bytes than MOST_BYTES."""
    tasks = {cell.task.name: cell.task.task for cell in cells}
    files = sorted({file for task in tasks.values() for path in task.files() for file in files_below(path)})
    root = data if data.is_dir() else data.parent
    if not files or sum(file.stat().st_size for file in files) > MOST_BYTES:
        return None
    content = {str(file.relative_to(root)): file.read_bytes() for file in files}
    return Parcel("" if data.is_dir() else data.name, content, digest_of_tree(root, files))


def unpack(parcel: Parcel) -> Path:
    """Where the files of a parcel lie on this machine, written now or for an earlier worker."""
    home = cache_folder() / "sent" / parcel.key
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=home.parent, prefix=".draft-"))
        for name, content in parcel.files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with suppress(OSError):  # another worker of this node was faster
            os.rename(draft, home)
    return home / parcel.name


def missing(data: Path | None, fetch: Callable[[], Parcel | None]) -> Path | None:
    """Where the data lie that were sent, if `data` is not on this machine.

    fetch: brings the parcel here; None where there is none, and the cells say themselves what they miss.
    """
    if data is None or data.exists():
        return None
    parcel = fetch()
    return None if parcel is None else unpack(parcel)


def reading(cell: Cell, home: Path) -> Cell:
    """The same cell with its data in another place."""
    task = cell.task.task
    moved = type(task)(task.subset, task.settings, replace(task.data, data_dir=home))
    return cell.with_task(replace(cell.task, task=moved))
