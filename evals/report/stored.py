"""Samples that stay on the disk: a cell's records are read when they are asked for, and not kept."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, overload

from evals.errors import UserError, unreadable
from evals.records.lines import AnyRecord, Damaged, decode
from evals.records.models import PerfRecord, SampleRecord, not_finite


class Lines:
    """The lines of a `samples.jsonl`, by the byte at which they begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def sample(self, offset: int) -> SampleRecord:
        """The sample of a line. Raises UserError where the file changed since it was searched."""
        record = self._record(offset)
        if not isinstance(record, SampleRecord):
            raise self._changed()
        return finite_or_failed(record)

    def perf(self, offset: int) -> PerfRecord:
        """The cold measurement of a line, likewise."""
        record = self._record(offset)
        if not isinstance(record, PerfRecord):
            raise self._changed()
        return record

    def _record(self, offset: int) -> AnyRecord:
        try:
            if self._file is None:
                self._file = self.path.open("rb")
            self._file.seek(offset)
            return decode(self._file.readline())
        except OSError as error:
            raise unreadable(self.path, error) from error
        except Damaged as error:
            raise self._changed() from error

    def _changed(self) -> UserError:
        return UserError(f"{self.path} changed while it was read: start the command again.")


class StoredSamples(Sequence[SampleRecord]):
    """The samples of one cell, in the order first seen, each in its newest record."""

    def __init__(self, lines: Lines, offsets: array[int]) -> None:
        self._lines = lines
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[SampleRecord]:
        return map(self._lines.sample, self._offsets)

    @overload
    def __getitem__(self, index: int) -> SampleRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[SampleRecord]: ...

    def __getitem__(self, index: int | slice) -> SampleRecord | Sequence[SampleRecord]:
        if isinstance(index, slice):
            return StoredSamples(self._lines, self._offsets[index])
        return self._lines.sample(self._offsets[index])


def finite_or_failed(record: SampleRecord) -> SampleRecord:
    """A sample whose metrics are not all finite failed: runs recorded before 0.1.0 call it ok."""
    if record.status == "ok" and (fault := not_finite(record.metrics)):
        return record.model_copy(update={"status": "failed", "error": fault})
    return record
