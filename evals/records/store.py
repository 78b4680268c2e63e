"""A run on disk: `run.json` (what, where, state of each cell) and `samples.jsonl` (what was measured).

A line of `samples.jsonl` is on the disk before the next request starts, so a run that is killed loses at most
the line that was being written; opening it again cuts that line off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evals.errors import UserError

FORMAT = 1
RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"


class StoreError(UserError):
    """The run folder cannot be used: the whole run stops, whatever cell was running."""


def read_run(folder: Path) -> dict[str, Any]:
    """`run.json` of a run. Raises UserError where there is none or it is of another format."""
    path = folder / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run: it holds no {RUN_FILE}.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON (line {error.lineno}): choose another run.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: choose another run.") from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise UserError(f"{path} has not the format {FORMAT} of this version: choose another output folder.")
    if not all(isinstance(run.get(name), dict) for name in ("cells", "models")):
        raise UserError(f"{path} lacks its cells or models: choose another run.")
    return run


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Every complete line of `samples.jsonl`; a torn last line is left out.

    Raises UserError, with file and line number, for a line that is no record.
    """
    path = folder / SAMPLES_FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} line {number} is not valid JSON: delete that line.") from error
            if not isinstance(record, dict) or not {"kind", "cell"} <= record.keys():
                raise UserError(f"{path} line {number} is not a record of a run: delete that line.")
            yield record


class Run:
    """An open run folder. Records are appended and synced; one process writes at a time.

    Use as a context manager. Every failure of the disk raises StoreError and leaves what was written intact.
    """

    def __init__(self, folder: Path, key: str, header: dict[str, Any]) -> None:
        """Create the run, or take up the one in `folder`.

        key: hash of what is run: a folder made with another key is refused. header: fields of `run.json`
        (command, spec, environment); a resumed run keeps those of its first start and notes the new ones.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            resumed = self._resumable(key)
            self._file = (folder / SAMPLES_FILE).open("a+b", buffering=0)
            self._lock()
            self._repair()
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"{folder} is not a folder: choose another --output.") from error
        except OSError as error:
            raise self._disk_error(error) from error
        self.meta = self._start(key, header, resumed)
        self.done: dict[str, set[str]] = {}
        self.perf: set[str] = set()
        for record in read_records(folder):
            self._note(record)
        self.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Write one record. When this returns, it is on the disk."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=True).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)  # shrinking works on a full disk too: no torn line stays behind
            raise self._disk_error(error) from error
        self._note(record)

    def save(self) -> None:
        """Write `run.json` whole: a reader sees the old or the new one."""
        path, draft = self.folder / RUN_FILE, self.folder / f".{RUN_FILE}"
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(self.meta, file, indent=1, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise self._disk_error(error) from error

    def _start(self, key: str, header: dict[str, Any], resumed: bool) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if not resumed:
            return {"format": FORMAT, "created": now, "key": key, **header, "models": {}, "cells": {}}
        meta = read_run(self.folder)
        meta.setdefault("resumed", []).append({"at": now, **header})
        return meta

    def _resumable(self, key: str) -> bool:
        """Whether the folder holds this very run; False where it is empty."""
        if (self.folder / RUN_FILE).exists():
            if read_run(self.folder).get("key") != key:
                raise StoreError(
                    f"{self.folder} holds another run (other tasks, models, lengths, settings or data): "
                    "choose another --output."
                )
            return True
        if any(not path.name.startswith(".") and path.name != SAMPLES_FILE for path in self.folder.iterdir()):
            raise StoreError(f"{self.folder} is not empty and holds no run: choose another --output.")
        return False

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"Another process writes to {self.folder}: wait for it or stop it.") from error

    def _repair(self) -> None:
        """Cut off what stands after the last line end."""
        size = self._file.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            start = max(keep - 65536, 0)
            self._file.seek(start)
            block = self._file.read(keep - start)
            if (at := block.rfind(b"\n")) >= 0:
                keep = start + at + 1
                break
            keep = start
        if keep < size:
            self._file.truncate(keep)

    def _note(self, record: dict[str, Any]) -> None:
        if record["kind"] == "sample":
            self.done.setdefault(record["cell"], set()).add(record["sample"])
        else:
            self.perf.add(record["cell"])

    def _disk_error(self, error: OSError) -> StoreError:
        return StoreError(
            f"Cannot write to {self.folder} ({error.strerror or error}): free some space or choose another "
            "--output; what was measured so far is kept, and the same command goes on from there."
        )
