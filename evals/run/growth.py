"""Cells that join a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evals.records.models import CellState, RunMeta
from evals.run.grid import Cell
from evals.run.identity import digest


def run_key(cells: Iterable[str], device: str) -> str:
    """Hash of what is run: the ids of cells, and the kind of device."""
    return digest({"cells": sorted(cells), "device": device})


def take_up(meta: RunMeta, cells: Sequence[Cell], device: str) -> None:
    """Enter the cells that a run does not have yet. Nothing that it has is taken away.

    Where it grows, its cells are put in the order of its models, its tasks, and the lengths.
    """
    before = len(meta.cells)
    for cell in cells:
        meta.cells.setdefault(cell.id, cell.state())
    if not before or len(meta.cells) == before:
        return
    models = list(dict.fromkeys(state.model for state in meta.cells.values()))
    tasks = list(dict.fromkeys(state.task for state in meta.cells.values()))

    def place(item: tuple[str, CellState]) -> tuple[int, int, int]:
        return models.index(item[1].model), tasks.index(item[1].task), item[1].length or 0

    ordered = sorted(meta.cells.items(), key=place)
    meta.cells.clear()
    meta.cells.update(ordered)
    meta.key = run_key(meta.cells, device)
