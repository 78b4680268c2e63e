"""A run on disk: `run.json` with its journal (what, where, state of each cell) and `samples.jsonl` (what was measured).

A record is in the file before the next request starts, and on the disk before the next record is in the file. So a run
that is killed loses at most the record that was being written, and one whose machine fails the record before it, too;
opening it again cuts off a line that is not whole. Records that the disk damaged are set aside in
`samples.damaged.jsonl` and count as not measured, so the same command measures them again.
"""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from evals.errors import UserError, unreadable
from evals.records.amendments import Amendments
from evals.records.disk import LateFile, replace_file, replacing
from evals.records.journal import Journal
from evals.records.json import Json, dumps
from evals.records.lines import AnyRecord, Damaged, Head, decode, encode, head_of
from evals.records.models import Resumed, RunMeta, SampleRecord
from evals.records.open_run import OpenRun
from evals.records.read import (
    DAMAGED_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    Line,
    is_torn,
    read_lines,
    read_places,
    read_run,
    whole_lines,
)
from evals.records.run_files import write_run_file
from evals.safe_text import plain_text

LOG = logging.getLogger(__name__)
LOCK_FILE = ".lock"
SAVE_EVERY_S, SAVE_SHARE = 1.0, 0.05
"""`run.json` is written again for a few cells after that time, and so that it takes at most this share of the time: of
10,000 cells it takes 0.2 s. Until then the journal has what changed."""


class StoreError(UserError):
    """The run folder cannot be used: the whole run stops, whatever cell was running."""


class RunStore(OpenRun):
    """An open run folder. Records are appended and synced; one process writes at a time.

    Use as a context manager. Every failure of the disk raises StoreError and leaves what was written intact.
    """

    def __init__(
        self, folder: Path, key: str, header: Json, difference: Callable[[RunMeta], str | None] = lambda _: "its cells"
    ) -> None:
        """Create the run, or take up the one in `folder`.

        key: hash of what is run. header: fields of `run.json` (command, spec, environment, identity_schema); a resumed
        run keeps those of its first start and notes the new ones. difference: in what a run recorded under another key
        differs from this one, as a part of a sentence, which is why it is refused; None lets the run grow.
        """
        super().__init__()
        self.folder = folder
        self._journal = Journal(folder)
        self._amendments = Amendments(folder)
        self._places: dict[str, array[int]] = {}  # of each cell, where its records begin
        self._next_save = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            resumed = self._resumable(key, difference)
            self._lock = self._locked()
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"{folder} is not a folder: choose another --output.") from error
        except OSError as error:
            raise self._disk_error(error) from error
        try:
            if self._amendments.waiting:
                self._amendments.apply()
            self._heal()
            self._file = LateFile(folder / SAMPLES_FILE)
            self.meta = self._start(key, header, resumed)
            self.save()
        except OSError as error:
            self._lock.release()
            raise self._disk_error(error) from error
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._journal.holds_changes:
            with suppress(StoreError):  # the journal has them
                self.save()
        try:
            self._file.close()
        except OSError as error:
            raise self._disk_error(error) from error
        finally:
            self._journal.close()
            self._amendments.close()
            self._lock.release()

    def append(self, *records: AnyRecord) -> None:
        """When this returns, the records are in the file (`LateFile`)."""
        lines = [encode(record) for record in records]
        try:
            place = self._file.append(b"".join(lines))
        except OSError as error:
            raise self._disk_error(error) from error
        for record, line in zip(records, lines, strict=True):
            self.note(record)
            self._place(record.cell, place)
            place += len(line)
            if isinstance(record, SampleRecord):
                self._tell(record)

    def settle(self) -> None:
        """When this returns, all records are on the disk."""
        try:
            self._file.settle()
        except OSError as error:
            raise self._disk_error(error) from error

    def _tell(self, record: SampleRecord) -> None:
        """Log a sample, for those who follow a run closely."""
        if LOG.isEnabledFor(logging.DEBUG) and (state := self.meta.cells.get(record.cell)):
            where = f"{state.model} {state.task}" + (f" {state.length}" if state.length else "")
            found = record.error or ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
            LOG.debug(plain_text(f"{where} {record.sample}: {found} ({sum(record.seconds.values()):.3g} s)"))

    def forget(self, cells: set[str]) -> None:
        if not cells & (self.samples.keys() | self.perf):
            return
        try:
            self._file.close()
            self._rewrite(lambda line: "not complete" if line.record and line.record.cell in cells else line.damage)
            self._file = LateFile(self.folder / SAMPLES_FILE)
        except OSError as error:
            raise self._disk_error(error) from error

    def records(self, cell: str) -> Iterator[AnyRecord]:
        """The records of a cell, in the order in which they were written. No other record is read."""
        path = self.folder / SAMPLES_FILE
        try:
            with path.open("rb") as file:
                for place in self._places.get(cell, ()):
                    file.seek(place)
                    with suppress(Damaged):
                        yield decode(file.readline())
        except OSError as error:
            raise unreadable(path, error) from error

    def amend(self, records: Sequence[SampleRecord]) -> None:
        """Have records take the places of those with their ids: when this returns, they are on the disk.

        `samples.jsonl` has them from `apply_amendments` on, or when the run is opened again.
        """
        try:
            self._amendments.append(records)
        except OSError as error:
            raise self._disk_error(error) from error

    def apply_amendments(self) -> None:
        """Put the records of `amend` into their places. All others stay as they are, byte by byte."""
        if not self._amendments.waiting:
            return
        try:
            self._file.close()
            self._amendments.apply()
            self._file = LateFile(self.folder / SAMPLES_FILE)
        except OSError as error:
            raise self._disk_error(error) from error
        self.clear()
        for place in read_places(self.folder):
            if place.head is not None:
                self._note_place(place.head, place.offset)

    def clear(self) -> None:
        super().clear()
        self._places.clear()

    def _note_place(self, head: Head, place: int) -> None:
        self.note_head(head)
        self._place(head.cell, place)

    def _place(self, cell: str, place: int) -> None:
        self._places.setdefault(cell, array("Q")).append(place)

    def save(self) -> None:
        """Write `run.json` whole: a reader sees the old or the new one. The records that it counts on are on the disk
        before."""
        begin = time.monotonic()
        try:
            self._file.settle()
            content = dumps(self.meta.as_json(), indent=1).encode()
            replace_file(self.folder / RUN_FILE, content)
            self._journal.clear(content)
        except OSError as error:
            raise self._disk_error(error) from error
        now = time.monotonic()
        self._next_save = now + max(SAVE_EVERY_S, (now - begin) / SAVE_SHARE)

    def save_cells(self, *cells: str) -> None:
        """When this returns, the states of these cells are on the disk."""
        if time.monotonic() >= self._next_save:
            self.save()
            return
        try:
            self._file.settle()
            self._journal.append({cell: self.meta.cells[cell] for cell in cells})
        except OSError as error:
            raise self._disk_error(error) from error

    def write_run_file(self, content: str, *, covers: bool) -> None:
        """Write the options that repeat the run (`evals.records.run_files`)."""
        try:
            write_run_file(self.folder, content, covers=covers)
        except OSError as error:
            raise self._disk_error(error) from error

    def _start(self, key: str, header: Json, resumed: bool) -> RunMeta:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if not resumed:
            return RunMeta(created=now, key=key, models={}, cells={}, **header)
        meta = read_run(self.folder)
        meta.resumed.append(Resumed(at=now, **header))
        return meta

    def _resumable(self, key: str, difference: Callable[[RunMeta], str | None]) -> bool:
        """Whether the folder holds a run that this one goes on with; False where it is empty."""
        if (self.folder / RUN_FILE).exists():
            recorded = read_run(self.folder)
            found = difference(recorded) if recorded.key != key else None
            if found is not None:
                raise StoreError(f"{self.folder} holds another run: {found}. Choose another --output.")
            return True
        if any(not path.name.startswith(".") and path.name != SAMPLES_FILE for path in self.folder.iterdir()):
            raise StoreError(f"{self.folder} is not empty and holds no run: choose another --output.")
        return False

    def _locked(self) -> FileLock:
        lock = FileLock(self.folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StoreError(f"Another process writes to {self.folder}: wait for it or stop it.") from error
        return lock

    def _heal(self) -> None:
        """Cut off a torn last line, and set damaged and doubled ones aside."""
        damaged = False
        for place in read_places(self.folder):
            if place.head is None or self.has(place.head):
                damaged = True
            else:
                self._note_place(place.head, place.offset)
        if damaged:
            last = {
                (place.head.cell, place.head.sample): place.number for place in read_places(self.folder) if place.head
            }
            self._rewrite(lambda line: line.damage or _doubled(line, last))
        elif is_torn(self.folder):
            self._cut_torn_line()

    def _rewrite(self, fault: Callable[[Line], str]) -> None:
        """Keep the lines without a fault; the others go to `samples.damaged.jsonl`. Nothing is ever deleted."""
        self.clear()
        with replacing(self.folder / SAMPLES_FILE) as kept, (self.folder / DAMAGED_FILE).open("ab") as aside:
            for line in read_lines(self.folder):
                if fault(line):
                    aside.write(line.raw)
                    self.healed += 1
                elif line.record:
                    self._note_place(head_of(line.record), kept.tell())
                    kept.write(line.raw)
            aside.flush()
            os.fsync(aside.fileno())

    def _cut_torn_line(self) -> None:
        path = self.folder / SAMPLES_FILE
        os.truncate(path, whole_lines(path, path.stat().st_size))

    def _disk_error(self, error: OSError) -> StoreError:
        return StoreError(
            f"Cannot write to {self.folder} ({error.strerror or error}): free some space or choose another "
            "--output; what was measured so far is kept, and the same command goes on from there."
        )


def _doubled(line: Line, last: dict[tuple[str, str | None], int]) -> str:
    """A fault where a later line holds the same sample or measurement."""
    if line.record is None:
        return ""
    head = head_of(line.record)
    return "doubled" if last[head.cell, head.sample] != line.number else ""
