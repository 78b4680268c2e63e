"""Published rows: openai/graphwalks on the hub, or the same files in the data folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from evals.errors import UserError
from evals.tasks.common import tables
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.rows import REPAIR, PlainVisible, Visible, one_or_more, validate
from evals.tasks.common.source import DataSource
from evals.tasks.graphwalks.graph import Edge

REPO = "openai/graphwalks"
REVISION = "f338bb265735a56a79f4b0f5def722c9c3268ead"
"""A revision that several public evaluations pin, after the repair of February 2026."""
SHORT = "graphwalks_128k_and_shorter.parquet"
LONG = "graphwalks_256k_to_1mil.parquet"
SHA256 = {
    SHORT: "54036036c91d8e04bb2a5fcd9e36f8e2a852cacece5dfc2b1ee40e3a6182b516",
    LONG: "537879431c72a42e3b500f80efc3047e7facb90390b6063d33679b4320985911",
}
"""Of the files at that revision, as public reproductions give them."""
LONGEST_SHORT = 1 << 17
EDGES = re.compile(r"(?:^\S+ -> \S+\n)+", re.MULTILINE)
OPERATION = re.compile(r"Operation:\s*(.+)")


class Row(BaseModel):
    """One published row. prompt: all of it. answer_nodes: maybe none."""

    prompt: Visible
    answer_nodes: list[PlainVisible]
    problem_type: Literal["bfs", "parents"]

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """What stands before the graph, the edges of the graph (the worked example has fewer), and what follows."""
        found = max(EDGES.finditer(self.prompt), key=lambda run: len(run.group()))
        return self.prompt[: found.start()], found.group(), self.prompt[found.end() :]

    @property
    def question(self) -> str:
        """The operation; all that follows the graph where no line is marked so."""
        after = self.parts[2]
        marked = OPERATION.search(after)
        return marked[1].strip() if marked else after.strip()

    @cached_property
    def edges(self) -> list[Edge]:
        """The edges of the graph."""
        return [(start, end) for start, _, end in (line.split(" ") for line in self.parts[1].splitlines())]


def files(data: DataSource) -> list[Path]:
    """The files in the data folder."""
    found = [_brought(name, data) for name in SHA256]
    return [path for path in found if path is not None]


def _brought(name: str, data: DataSource) -> Path | None:
    if data.data_dir is None:
        return None
    places = (data.data_dir, data.data_dir / "graphwalks")
    return next((place / name for place in places if (place / name).is_file()), None)


def locate(length: int, data: DataSource) -> list[Path]:
    """The files that have rows of a length. Raises UserError that says how to get them."""
    names = [SHORT] if length <= LONGEST_SHORT else [SHORT, LONG]
    if data.data_dir is None:
        return [fetch(REPO, name, REVISION, data.offline, SHA256[name]) for name in names]
    found = []
    for name in names:
        path = _brought(name, data)
        if path is None:
            raise not_in(data.data_dir, f"{name} is", "the file", REPO)
        found.append(path)
    return found


def read(path: Path) -> Iterator[tuple[int, Row]]:
    """Numbers and rows of a file. Raises UserError for a bad row, or none."""
    for number, value in one_or_more(tables.rows(path), path):
        row = validate(dict(value), Row, f"{path}, row {number}")
        if not EDGES.search(row.prompt):
            raise UserError(f"{path}, row {number}: the prompt has no line `a -> b`: {REPAIR}.")
        if not row.parts[2].strip():
            raise UserError(f"{path}, row {number}: the prompt ends with its graph and asks nothing: {REPAIR}.")
        yield number, row
