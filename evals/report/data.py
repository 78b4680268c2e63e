"""A run and its summary: the source of tables, plots and page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from evals.report.load import Run
from evals.report.summary import score, summarize

ENDED = ("ok", "oom")
"""States of cells that have all the scores they will have; `oom` is a result."""


@dataclass(frozen=True)
class Data:
    """A run and its summary."""

    run: Run
    summary: pd.DataFrame

    @classmethod
    def of(cls, run: Run) -> Data:
        return cls(run, summarize(run))

    @property
    def models(self) -> list[str]:
        """Models in the order of the run."""
        return list(dict.fromkeys(self.summary["model"]))

    @property
    def methods(self) -> dict[str, str]:
        """Name of the method of each model."""
        return {model: self.run.method(model) for model in self.models}

    @property
    def ended(self) -> pd.DataFrame:
        """The rows of the summary whose cells were run to their end."""
        return self.summary[self.summary["status"].isin(ENDED)]

    @cached_property
    def ran_out(self) -> set[str]:
        """Cells whose answers did not all fit into memory; where the cold pass alone did not, all answers are there."""
        return {cell for cell, state in self.run.cells.items() if state.status == "oom"}

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The summary with the first metric of each task as `score`, `low` and `high`, and its `family`.

        A cell that was not run to its end has none here: a figure could not say that it rests on a part of the samples.
        """
        found = [score(row) for _, row in self.summary.iterrows()]
        whole = self.summary["status"].isin(ENDED) & ~self.summary["cell"].isin(self.ran_out)
        estimates = pd.DataFrame([(f.estimate, f.low, f.high) for f in found], self.summary.index, dtype=float)
        return self.summary.assign(
            **dict(zip(("score", "low", "high"), (estimates[k].where(whole) for k in range(3)), strict=True)),
            family=self.summary["task"].str.partition(":")[0],
        )

    @cached_property
    def costs(self) -> pd.DataFrame:
        """Cold measurements of one task: `efficiency` if the run has it, else the task with the most of them.

        Every task of a run is measured at the same lengths, so drawing all tasks would repeat the same line.
        """
        measured = self.summary[self.summary["length"].notna() & self.summary["peak_gib"].notna()]
        if measured.empty:
            return measured
        counts = measured["task"].value_counts(sort=True)
        task = "efficiency" if "efficiency" in counts else counts.index[0]
        return self.summary[(self.summary["task"] == task) & self.summary["length"].notna()]
