"""The dry run: what would be run, how many tokens, how much memory, without loading a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.run.grid import Cell
from evals.run.memory import expected_memory


@dataclass(frozen=True)
class Planned:
    """One row of the plan. samples and tokens are None where no --limit bounds them, memory where no config is."""

    cell: Cell
    samples: int | None
    tokens: int | None
    weight_bytes: int | None
    kv_bytes: int | None


def planned(cells: Sequence[Cell], limit: int | None) -> list[Planned]:
    """The plan of a run, one row per cell."""
    choices = {cell.model.name: cell.model for cell in cells}
    memory = {name: expected_memory(choice) for name, choice in choices.items()}
    rows = []
    for cell in cells:
        expected = memory[cell.model.name]
        tokens = limit * cell.task.task.sample_tokens(cell.length) if limit and cell.length else None
        weight = expected.weight_bytes if expected else None
        kv = expected.kv_token_bytes * cell.length if expected and cell.length else None
        rows.append(Planned(cell, limit, tokens, weight, kv))
    return rows
