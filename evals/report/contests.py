"""Every model of a run against every other, in each task and at each length: who is best, and by how much.

All of it is computed from the digests of the cells: no sample is read again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from evals.records.models import CellState
from evals.report.data import Data
from evals.report.digest import Digest
from evals.report.load import Run
from evals.report.stats.interval import LEVEL, Interval
from evals.report.stats.paired_tests import PairedTest, holm, holm_level, paired_influences, paired_scores
from evals.report.summary import is_measured


@dataclass(frozen=True)
class Tried:
    """A test of two models that answered the same questions. difference: second minus first."""

    first: float
    second: float
    test: PairedTest

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class Against:
    """A model minus the base: its interval leaves out 0 exactly where p, adjusted by Holm, is at most LEVEL."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Best:
    """The model with the best score in a column. p: that it is not better than each other model, adjusted for the
    models and columns. second: the model that comes closest, judged by its p-value; detectable: the
    difference to it that would be seen four times in five. shown: whether p is at most LEVEL.
    """

    model: str
    p: float
    second: str
    difference: float
    detectable: float

    @property
    def shown(self) -> bool:
        """Whether the model is better than every other."""
        return self.p <= LEVEL


@dataclass(frozen=True)
class Column:
    """A task at a length, None for the length that its questions have. settings: of the task, as JSON."""

    task: str
    length: int | None
    metric: str
    higher_is_better: bool
    settings: str
    version: int


@dataclass(frozen=True)
class Contest:
    """Cells whose models are compared as one family: a task at its lengths, or the tasks of a benchmark at one length.

    cells: their ids by model and column.
    """

    run: Run
    cells: dict[tuple[str, Column], str]

    @cached_property
    def models(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(model for model, _ in self.cells))

    @cached_property
    def columns(self) -> list[Column]:
        """By length; tasks in the order of the run."""
        return sorted(dict.fromkeys(column for _, column in self.cells), key=lambda column: column.length or 0)

    @property
    def by_length(self) -> bool:
        """Whether the columns are the lengths of one task."""
        return len({column.task for column in self.columns}) == 1

    @property
    def title(self) -> str:
        """Name of the task, or of the benchmark."""
        task = self.columns[0].task
        return task if self.by_length else task.partition(":")[0]

    def tried(self, first: str, second: str, column: Column) -> Tried | None:
        """The test of second minus first; None where they have no question in common or were not asked alike."""
        key = (first, second, column)
        if key not in self._tried:
            cells = [self.cells.get((model, column)) for model in (first, second)]
            a, b = (None if cell is None else self.run.digest(cell) for cell in cells)
            self._tried[key] = None if a is None or b is None else tried(a, b, column.metric)
        return self._tried[key]

    @cached_property
    def _tried(self) -> dict[tuple[str, str, Column], Tried | None]:
        return {}

    def against(self, base: str) -> dict[tuple[str, Column], Against]:
        """Every other model minus the base in each column, as one family of tests."""
        pairs = {
            (model, column): found
            for column in self.columns
            for model in self.models
            if model != base and (found := self.tried(base, model, column)) is not None
        }
        p_values = [found.test.p for found in pairs.values()]
        level = holm_level(p_values) if pairs else LEVEL
        return {
            key: Against(found.difference, *found.test.limits(level), p)
            for (key, found), p in zip(pairs.items(), holm(p_values), strict=True)
        }

    @cached_property
    def best(self) -> dict[Column, Best]:
        """The best model of each column in which two have scores.

        A model is the best if it beats each other one, so its p-value is the largest of these tests. Any of K models
        might have come out first, and a test in one direction has half of the two-sided p: K / 2 times that bounds the
        chance of naming any model wrongly. Holm's adjustment for the columns follows.
        """
        found = {column: best for column in self.columns if (best := self._leader(column)) is not None}
        adjusted = holm([best.p for best in found.values()])
        return {column: replace(best, p=p) for (column, best), p in zip(found.items(), adjusted, strict=True)}

    def score(self, model: str, column: Column) -> Interval | None:
        """None where the cell has none."""
        cell = self.cells.get((model, column))
        return None if cell is None else self.run.digest(cell).intervals.get(column.metric)

    def scored(self, column: Column) -> dict[str, float]:
        """Scores of a column, best first."""
        found = {model: score.estimate for model in self.models if (score := self.score(model, column)) is not None}
        return dict(sorted(found.items(), key=lambda item: item[1], reverse=column.higher_is_better))

    def _leader(self, column: Column) -> Best | None:
        scores = self.scored(column)
        if len(scores) < 2:
            return None
        first, *others = scores
        tests = {model: self.tried(model, first, column) for model in others}
        p_values = {model: 1.0 if found is None else found.test.p for model, found in tests.items()}
        second = max(others, key=lambda model: p_values[model])
        nearest = tests[second]
        if nearest is None:
            return Best(first, 1.0, second, scores[first] - scores[second], float("nan"))
        p = min(1.0, p_values[second] * len(scores) / 2)
        return Best(first, p, second, nearest.difference, abs(nearest.test.detectable()))

    def differing(self) -> tuple[int, int]:
        """How many pairs of models in a column are shown to differ, Holm over all of them, and how many there are."""
        found = [
            tried
            for column in self.columns
            for first, second in combinations(self.models, 2)
            if (tried := self.tried(first, second, column)) is not None
        ]
        return sum(p <= LEVEL for p in holm([t.test.p for t in found])), len(found)


def contests(data: Data) -> list[Contest]:
    """The contests of a run, in its order: one for each task and set of settings, and one for the tasks of a benchmark
    that were each measured at one length. Costs are no scores.
    """
    alone: dict[tuple[object, ...], dict[tuple[str, Column], str]] = {}
    for cell, state in data.run.cells.items():
        if not is_measured(state.task):
            column = _column(state)
            alone.setdefault((state.task, column.settings, column.version), {})[state.model, column] = cell
    joined: dict[object, dict[tuple[str, Column], str]] = {}
    for key, cells in alone.items():
        lengths = {column.length for _, column in cells}
        family = str(key[0]).partition(":")
        joined.setdefault((family[0], *lengths) if len(lengths) == 1 and family[2] else key, {}).update(cells)
    return [Contest(data.run, cells) for cells in joined.values()]


def _column(state: CellState) -> Column:
    settings = json.dumps(state.settings, sort_keys=True)
    return Column(state.task, state.length, state.metric, state.higher_is_better, settings, state.task_version)


def tried(first: Digest, second: Digest, metric: str) -> Tried | None:
    """The paired test of two cells of the same task and length; None where they cannot be paired."""
    a, b = first.comparable, second.comparable
    if a.influence is not None and b.influence is not None:
        if a.same != b.same or a.estimate is None or b.estimate is None:
            return None
        found = paired_influences((a.estimate, a.influence), (b.estimate, b.influence), metric)
        return None if found is None else Tried(*found)
    _, ours, theirs = np.intersect1d(a.ids, b.ids, return_indices=True)
    finite = ~np.isnan(first.values[ours]) & ~np.isnan(second.values[theirs])
    ours, theirs = ours[finite], theirs[finite]
    if not len(ours) or (a.asked[ours] != b.asked[theirs]).any():
        return None
    values = first.values[ours], second.values[theirs]
    return Tried(float(values[0].mean()), float(values[1].mean()), paired_scores(*values, first.codes[ours]))
