"""From a run folder to tables, plots and one page. All of it is derived: delete it and build it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError

if TYPE_CHECKING:  # reading a run must not wait for matplotlib
    import pandas as pd

    from evals.report.data import Data
    from evals.report.load import Run


def write(run: Run, folder: Path, threshold: float | None = None) -> pd.DataFrame:
    """Write the report of a run, or of several merged, into `folder`. Returns the summary.

    threshold: share of the short-length score that the effective length asks for (`evals.report.effective`).
    Raises UserError if `folder` cannot be written to.
    """
    from evals.report.data import Data

    data = Data.of(run)
    try:
        _write(data, folder, threshold)
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {folder} ({error.strerror or error}): free some space or choose another "
            "folder with `sharedllm-report RUN --output FOLDER`."
        ) from error
    return data.summary


def _write(data: Data, folder: Path, threshold: float | None) -> None:
    from evals.report.bins import length_tables
    from evals.report.effective import THRESHOLD, effective_table
    from evals.report.page import write_page
    from evals.report.paper.tables import paper_tables
    from evals.report.plan import plan_table
    from evals.report.plots import draw
    from evals.report.tables import summary_table

    folder.mkdir(parents=True, exist_ok=True)
    data.summary.to_csv(folder / "summary.csv", index=False)
    with (folder / "summary.parquet").open("wb") as file:  # by name, pyarrow refuses what is not UTF-8
        data.summary.to_parquet(file, index=False)
    share = threshold or THRESHOLD
    lengths = list(effective_table(data, share))
    summary = "\n".join(table.markdown() for table in [summary_table(data), *lengths])
    (folder / "summary.md").write_text(summary, encoding="utf-8")
    tables, plan = [*lengths, *length_tables(data), *paper_tables(data)], plan_table(data)
    for table in (*tables, *([plan] if plan else [])):
        table.write(folder / "tables")
    plots = draw(data, folder / "plots")
    write_page(data, plots, tables, folder / "report.html", plan, share)
