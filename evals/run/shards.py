"""A grid in parts, each for a job of its own: `--shard I/N`.

Which cells a part has depends on the grid and N alone, never on what was measured: every job computes the same split
by itself. The expected cost is that of one named GPU, wherever it is computed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evals.errors import UserError
from evals.records.models import ShardEntry
from evals.records.shards import shard_folder
from evals.run.devices import REFERENCE
from evals.run.estimate import estimate
from evals.run.grid import Cell
from evals.run.identity import digest
from evals.run.packing import pack
from evals.run.spec import RunSpec

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """The index-th of count parts, from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8`. Raises UserError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= index <= count <= MOST_SHARDS:
            raise UserError(f"--shard {text} is not a part of a grid: write I/N, from 1/N to N/N, as --shard 2/8.")
        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"

    def folder(self, grid: Path) -> Path:
        """The run folder of the part below the folder of the grid."""
        return shard_folder(grid, self.index, self.count)


@dataclass(frozen=True)
class Part:
    """A shard of a grid: its cells in the grid's order, their share of the expected time, its entry in `run.json`."""

    cells: list[Cell]
    share: float
    entry: ShardEntry


@dataclass(frozen=True)
class Split:
    """A grid in parts. places: of the cells of every part, in the grid's order. shares: of the expected time."""

    places: list[list[int]]
    shares: list[float]

    @classmethod
    def of(cls, cells: Sequence[Cell], spec: RunSpec, count: int) -> Split:
        """The longest cells first, each to the part that would end soonest."""
        expected = estimate(cells, spec, REFERENCE, "bfloat16")
        jobs = [replace(job, width=1) for job in expected.jobs]  # a part runs on a machine that has the GPUs
        places = [sorted(machine.jobs) for machine in pack(jobs, count)]
        whole = sum(expected.seconds) or 1.0
        return cls(places, [sum(expected.seconds[at] for at in part) / whole for part in places])


def part(cells: Sequence[Cell], spec: RunSpec, shard: Shard, key: str) -> Part:
    """One shard of a grid. key: of the grid."""
    split = Split.of(cells, spec, shard.count)
    mine = split.places[shard.index - 1]
    ids = digest([[cells[at].id for at in places] for places in split.places])
    entry = ShardEntry(index=shard.index, count=shard.count, key=key, cells=len(cells), places=mine, split=ids)
    return Part([cells[at] for at in mine], split.shares[shard.index - 1], entry)
