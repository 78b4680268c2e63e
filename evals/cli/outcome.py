"""What a run that ended says: its report, its results on the terminal, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from evals.cli.overview import show_overview
from evals.cli.pipes import PipeConsole
from evals.cli.terminal import show_results
from evals.errors import UserError
from evals.records.json import Json
from evals.records.models import CellState
from evals.run.answering import Spent
from evals.run.grid import Cell
from evals.safe_text import plain_line

if TYPE_CHECKING:  # pandas takes seconds: not before it is needed
    from evals.report.data import Data


def show(out: PipeConsole, rows: Sequence[Json], folder: Path, data: Data | None) -> None:
    """The results: in a pipe or file every cell, at a terminal in brief, with what they say."""
    elsewhere = f"{folder / 'summary.csv'}, {folder / 'report.html'}"
    if not (out.is_terminal and show_overview(out, rows, elsewhere)):
        show_results(out, rows, elsewhere)
    if out.is_terminal and data is not None:
        for sentence in _sentences(data):
            out.write_line(plain_line(sentence))


def _sentences(data: Data) -> list[str]:
    """The verdict of the report, and the first sentence of each of its findings."""
    from evals.report.contests import contests
    from evals.report.findings import findings, verdict

    found = contests(data)
    return [verdict(found), *(f"{each.title}: {each.sentences[0]}" for each in findings(data, found))]


def exit_code(states: Sequence[CellState]) -> int:
    """0: every cell ran or hit out of memory. 1: some cell failed. 2: none could run, as the input was bad."""
    failed = [state for state in states if state.status == "failed"]
    if not failed:
        return 0
    return 2 if len(failed) == len(states) and all(state.bad_input for state in failed) else 1


def timing_of(spent: Spent, wall_s: float, report_s: float, workers: int) -> dict[str, float]:
    """Where the wall time went. Loading is the import of methods and the fetching and reading of weights; the
    harness's share is all that is neither loading, model nor report. With several workers, load_s, model_s and
    harness_s are sums over them, and waiting for the last one counts as the harness's.
    """
    harness_s = workers * (wall_s - report_s) - spent.load_s - spent.model_s
    return {
        "wall_s": wall_s,
        "load_s": spent.load_s,
        "model_s": spent.model_s,
        "report_s": report_s,
        "harness_s": harness_s,
        "harness_share": harness_s / (workers * (wall_s - report_s) + report_s),
        **({"workers": workers} if workers > 1 else {}),
    }


def import_report() -> None:
    """What `write_report` imports, ahead of time: pandas, scipy and matplotlib take seconds."""
    for module in ("load", "page", "paper.tables", "plots"):
        import_module(f"evals.report.{module}")


def write_report(folder: Path) -> tuple[Data, UserError | None]:
    """Write the report; return the run with its summary, and why the report could not be written if so."""
    from evals import report  # pandas, scipy and matplotlib take seconds: not before they are needed
    from evals.report.data import Data
    from evals.report.load import load

    run = load(folder)
    try:
        return Data(run, report.write(run, folder)), None
    except UserError as error:
        return Data.of(run), error


def by_cell(data: Data | None) -> dict[str, Json]:
    """The entries of the summary by cell."""
    from evals.report.summary import records

    return {} if data is None else {row["cell"]: row for row in records(data.summary)}


def outcome(cells: Sequence[Cell], states: dict[str, CellState], summary: dict[str, Json]) -> list[Json]:
    """One entry per cell: its state, and from the summary what was measured."""
    rows = []
    for cell in cells:
        state, row = states[cell.id], summary.get(cell.id, {})
        rows.append(
            {
                "model": cell.model.name,
                "task": cell.task.name,
                "length": cell.length,
                "n": 0,
                "metrics": {},
                "metric": state.metric,
                "cell": cell.id,
                **row,
                "status": state.status,  # the engine's word: a summary only knows what was measured
                "error": state.error,
                "max_context": state.max_context,
                "beyond_window": state.beyond_window,
            }
        )
    return rows
