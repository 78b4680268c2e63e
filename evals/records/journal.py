"""What `run.json` does not say yet: it lists every cell of a run, and only a few of them change at a time.

Each line holds a cell as it is now; the last line of a cell counts. The file is there only until `run.json` is written
again.
"""

from __future__ import annotations

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

    @property
    def holds_changes(self) -> bool:
        """Whether anything was appended that `run.json` does not say."""
        return self._file is not None

    def append(self, states: Mapping[str, CellState]) -> None:
        """When this returns, the states of these cells are on the disk."""
        if self._file is None:
            self._file = GrowingFile(self._path)
        lines = [dumps({"cell": cell, "state": state.model_dump()}) + "\n" for cell, state in states.items()]
        self._file.append("".join(lines).encode())

    def clear(self) -> None:
        """`run.json` says it all."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


def take_in(folder: Path, meta: RunMeta) -> None:
    """Bring what `run.json` says up to date. A line that a kill cut short is left out."""
    try:
        content = (folder / JOURNAL_FILE).read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            change = Change.model_validate_json(line, strict=True)
        except ValidationError:
            continue
        if change.cell in meta.cells:
            meta.cells[change.cell] = change.state
