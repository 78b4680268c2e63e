"""A run that grows: what the engine asks about it and adds to it, wherever the folder is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from evals.records.lines import AnyRecord
from evals.records.models import RunMeta, SampleRecord


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

    def count(self, cell: str) -> int:
        """Records of a cell."""
        return len(self.samples.get(cell, ())) + (cell in self.perf)

    def note(self, record: AnyRecord) -> None:
        """Remember that a record was written."""
        if isinstance(record, SampleRecord):
            self.samples.setdefault(record.cell, set()).add(record.sample)
            if record.status == "failed":
                self.failed.setdefault(record.cell, {})[record.sample] = record.error or "it failed"
        else:
            self.perf.add(record.cell)

    def clear(self) -> None:
        """Remember no record."""
        self.samples.clear()
        self.perf.clear()
        self.failed.clear()
