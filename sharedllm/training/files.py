"""The files of a training run: what is read, and the folder that one process at a time writes to."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sharedllm.errors import UserError
from sharedllm.training.record import printable
from sharedllm.training.settings import TrainSettings

LOCK = "training.lock"
TOKENS = "tokens"
"""Folder below the output with the token ids of the texts."""


@dataclass(frozen=True)
class Files:
    """What a run reads and where it writes.

    base: folder or hub name. weights: share of each file of `data`; none: all alike. init: adapter to start from.
    """

    base: str
    data: list[Path]
    weights: list[float]
    heldout: list[Path]
    init: Path | None
    output: Path


def check_files(files: Files, settings: TrainSettings) -> None:
    """Raise UserError for data that is missing, and weights that do not go with it."""
    for file in (*files.data, *files.heldout):
        try:
            there = file.is_file()
        except OSError:  # a name that is too long
            there = False
        if not there:
            raise UserError(f"There is no data file {printable(file)[:200]}: name an existing file.")
    if not files.weights:
        return
    if settings.mode == "sft":
        raise UserError("--weight has no effect in the mode sft, which draws all examples alike: leave it out.")
    if len(files.weights) != len(files.data):
        raise UserError(f"There are {len(files.data)} --data, but {len(files.weights)} --weight: give one each.")
    if not all(0 <= weight < math.inf for weight in files.weights) or not 0 < sum(files.weights) < math.inf:
        raise UserError(f"--weight is {files.weights}: give numbers from 0 on, not all of them 0.")


@contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Hold the output folder; of several processes of one run the first one holds it for all."""
    lock = FileLock(output / LOCK, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if int(os.environ.get("RANK", "0")) == 0:
            lock.acquire()
    except Timeout as error:
        raise UserError(
            f"Another sharedllm-train is writing to {output}: wait for it, or choose another --output."
        ) from error
    except FileExistsError as error:
        raise UserError(f"--output {output} is a file: name a folder.") from error
    except OSError as error:
        raise UserError(f"--output {output} cannot be used ({error.strerror}): name a folder to write to.") from error
    try:
        yield
    finally:
        lock.release()
