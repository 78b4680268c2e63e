"""What a report lacks, in sentences: samples that do not count, and cells without a score."""

from __future__ import annotations

from evals.records.models import CellState
from evals.report.load import Run
from evals.report.words import place

MOST_LINES = 20


def missing(run: Run) -> list[str]:
    """One sentence per cell whose samples do not all count, then what is left of the cells that have none."""
    found = [line for cell, state in run.cells.items() if (line := _left_out(run, cell, state))]
    more = len(found) - MOST_LINES
    return found if more <= 0 else [*found[:MOST_LINES], f"Samples of {more} more cells do not count."]


def _left_out(run: Run, cell: str, state: CellState) -> str:
    digest = run.digest(cell)
    reasons = digest.left_out
    if not reasons:
        return ""
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    where = place(state.task, state.length)
    return f"{where}, {state.model}: {reasons.total()} of {digest.total} samples do not count ({why})."
