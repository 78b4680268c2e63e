"""Records that replace others of `samples.jsonl`: written beside it, one line each, until they take their places.

Rewriting `samples.jsonl` for every few of them would take a time that grows with the square of their number. What a
kill leaves here takes its places when the run is opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.records.disk import GrowingFile, replacing
from evals.records.lines import AnyRecord, Damaged, Head, encode, head
from evals.records.read import SAMPLES_FILE, raw_lines, read_places

AMENDED_FILE = ".samples.amended.jsonl"


class Amendments:
    """The replacements of an open run. Every method raises OSError where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / AMENDED_FILE
        self._file: GrowingFile | None = None

    @property
    def waiting(self) -> bool:
        """Whether there are records that have not taken their places yet."""
        return self._path.exists()

    def append(self, records: Sequence[AnyRecord]) -> None:
        """When this returns, the records are on the disk."""
        file = self._file or GrowingFile(self._path)
        file.append(b"".join(map(encode, records)))
        self._file = file

    def apply(self) -> None:
        """Put each record in the place of that with its id; all others stay as they are, byte by byte."""
        self.close()
        places = {_id(place.head): place.offset for place in read_places(self._folder, AMENDED_FILE) if place.head}
        with replacing(self._folder / SAMPLES_FILE) as kept, self._path.open("rb") as amended:
            for raw in raw_lines(self._folder):
                try:
                    place = places.get(_id(head(raw)))
                except Damaged:
                    place = None
                if place is not None:
                    amended.seek(place)
                kept.write(raw if place is None else amended.readline())
        self._path.unlink()

    def close(self) -> None:
        """Keep the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _id(head: Head) -> tuple[str, str | None]:
    return head.cell, head.sample
