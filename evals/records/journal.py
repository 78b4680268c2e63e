"""What `run.json` does not say yet: it lists every cell of a run, and only a few of them change at a time.

The first line says to which `run.json` the others belong: a journal beside another one (a copy, or what a kill left
between the writing of `run.json` and the end of the journal) says nothing. Each other line holds a cell as it is now;
the last line of a cell counts. The file is there only until `run.json` is written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from evals.records.disk import GrowingFile
from evals.records.json import dumps
from evals.records.models import CellState, Record, RunMeta

JOURNAL_FILE = ".run.jsonl"


class Change(Record):
    """A line."""

    cell: str
    state: CellState


class Journal:
    """The changes of an open run. Every method raises OSError where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        self._file: GrowingFile | None = None
        self._head = ""

    @property
    def holds_changes(self) -> bool:
        """Whether anything was appended that `run.json` does not say."""
        return self._file is not None

    def append(self, states: Mapping[str, CellState]) -> None:
        """When this returns, the states of these cells are on the disk."""
        lines = [dumps({"cell": cell, "state": state.model_dump()}) + "\n" for cell, state in states.items()]
        if self._file is None:
            lines.insert(0, self._head)
        file = self._file or GrowingFile(self._path)
        file.append("".join(lines).encode())
        self._file = file

    def clear(self, content: bytes) -> None:
        """`run.json`, which is now `content`, says it all."""
        self.close()
        self._path.unlink(missing_ok=True)
        self._head = _head(content)

    def close(self) -> None:
        """Keep the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _head(content: bytes) -> str:
    return dumps({"of": hashlib.sha256(content).hexdigest()}) + "\n"


def take_in(journal: bytes, content: bytes, meta: RunMeta) -> None:
    """Bring `meta`, which `content` of `run.json` says, up to date. A line that a kill cut short is left out."""
    head = _head(content).encode()
    if not journal.startswith(head):
        return
    for line in journal[len(head) :].splitlines():
        try:
            change = Change.model_validate_json(line, strict=True)
        except ValidationError:
            continue
        if change.cell in meta.cells:
            meta.cells[change.cell] = change.state
