"""A run that grows: what the engine asks about it and adds to it, wherever the folder is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from evals.records.lines import AnyRecord, Head, head_of
from evals.records.models import RunMeta


class OpenRun(ABC):
    """The records of a run so far, and the ways to add to them.

    samples: record ids of each cell that were written. perf: cells that have a cold measurement. failed: of each
    cell why samples have no score, by id. healed: how many damaged records were set aside when the run was opened.
    """

    meta: RunMeta

    def __init__(self) -> None:
        self.samples: dict[str, set[str]] = {}
        self.perf: set[str] = set()
        self.failed: dict[str, dict[str, str]] = {}
        self.healed = 0

    @abstractmethod
    def append(self, *records: AnyRecord) -> None:
        """Write records that belong together."""

    @abstractmethod
    def forget(self, cells: set[str]) -> None:
        """Set the records of cells aside: what a kill left of a measurement that has to be made whole."""

    @abstractmethod
    def save(self) -> None:
        """Write what `meta` says now."""

    @abstractmethod
    def save_cells(self, *cells: str) -> None:
        """Write what `meta` says now about these cells."""

    def count(self, cell: str) -> int:
        """Records of a cell."""
        return len(self.samples.get(cell, ())) + (cell in self.perf)

    def note(self, record: AnyRecord) -> None:
        """Remember that a record was written."""
        self.note_head(head_of(record))

    def note_head(self, head: Head) -> None:
        """Remember that this record was written."""
        if head.sample is None:
            self.perf.add(head.cell)
            return
        self.samples.setdefault(head.cell, set()).add(head.sample)
        if head.error is not None:
            self.failed.setdefault(head.cell, {})[head.sample] = head.error

    def has(self, head: Head) -> bool:
        """Whether this record was written before."""
        if head.sample is None:
            return head.cell in self.perf
        return head.sample in self.samples.get(head.cell, ())

    def clear(self) -> None:
        """Remember no record."""
        self.samples.clear()
        self.perf.clear()
        self.failed.clear()
