"""From a run folder to tables, plots and one page. All of it is derived: delete it and build it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError

if TYPE_CHECKING:  # reading a run must not wait for matplotlib
    import pandas as pd

    from evals.report.frames import Data
    from evals.report.load import Run


def write(run: Run, folder: Path) -> pd.DataFrame:
    """Write the report of a run, or of several merged, into `folder`. Returns the summary.

    Raises UserError if `folder` cannot be written to.
    """
    from evals.report.frames import Data

    data = Data.of(run)
    try:
        _write(data, folder)
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {folder} ({error.strerror or error}): free some space or choose another "
            "folder with `sharedllm-report RUN --output FOLDER`."
        ) from error
    return data.summary


def _write(data: Data, folder: Path) -> None:
    from evals.report.page import write_page
    from evals.report.paper.tables import paper_tables
    from evals.report.plots import draw
    from evals.report.tables import summary_table

    folder.mkdir(parents=True, exist_ok=True)
    data.summary.to_csv(folder / "summary.csv", index=False)
    with (folder / "summary.parquet").open("wb") as file:  # by name, pyarrow refuses what is not UTF-8
        data.summary.to_parquet(file, index=False)
    (folder / "summary.md").write_text(summary_table(data).markdown(), encoding="utf-8")
    tables = paper_tables(data)
    for table in tables:
        table.write(folder / "tables")
    plots = draw(data, folder / "plots")
    write_page(data, plots, tables, folder / "report.html")
