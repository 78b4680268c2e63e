"""Is one model better than another, or is it chance? Paired comparison on the samples that both answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from evals.errors import UserError, unknown
from evals.records.models import CellState, SampleRecord
from evals.report.data import Data
from evals.report.digest import task_of
from evals.report.effective import Effective, effective_lengths
from evals.report.gain import GAIN, gains
from evals.report.load import Run
from evals.report.matched_pairs import SAME_PROMPT, Pairs, Tested, tested
from evals.report.stats.interval import LEVEL
from evals.report.stats.paired_tests import holm, holm_level


@dataclass(frozen=True)
class Side:
    """A model of a run."""

    run: Run
    model: str

    def cells(self) -> dict[tuple[str, int | None, str], str]:
        """Cell ids by task, length and settings."""
        return {
            (c.task, c.length, json.dumps(c.settings, sort_keys=True)): cell
            for cell, c in self.run.cells.items()
            if c.model == self.model
        }


@dataclass(frozen=True)
class Difference:
    """Second model minus first on the samples common to both, for one task at one length.

    n: pairs; groups: their clusters. low, high: the interval at `confidence`, which leaves out 0 exactly where
    `p_holm` is at most LEVEL. p: of `test`; p_holm: adjusted for all rows of the comparison. smallest: the true
    difference that this many samples show with probability 0.8 at LEVEL, before any adjustment.
    """

    first_model: str
    second_model: str
    task: str
    length: int | None
    metric: str
    higher_is_better: bool
    n: int
    groups: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    confidence: float
    test: str
    p: float
    p_holm: float
    smallest: float

    @property
    def verdict(self) -> str:
        """Which model is better, if the adjusted test shows it."""
        if self.p_holm > LEVEL:
            return "no difference shown"
        better = (self.difference > 0) == self.higher_is_better
        return f"{self.second_model if better else self.first_model} is better"

    def as_dict(self) -> dict[str, object]:
        """The difference with its verdict, as JSON."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Refusal:
    """Why a task at a length was not compared."""

    task: str
    length: int | None
    reason: str


def choose(runs: Sequence[Run], models: Sequence[str] = ()) -> list[tuple[Side, Side]]:
    """The pairs to compare: two models of one run, or the models of two runs.

    models: none (the run's only two models; the models that two runs share, or the single one of each), one
    (the same name in both runs) or two (first, second). Raises UserError where that does not name a pair.
    """
    first, second = runs[0], runs[-1]
    for name, run in zip(models, runs if len(runs) == len(models) else [first] * len(models), strict=True):
        if name not in run.models:
            raise unknown(f"model of {run.path}", name, run.models)
    if len(models) == 2:
        return [(Side(first, models[0]), Side(second, models[1]))]
    if len(runs) == 2:
        shared = [m for m in first.models if m in second.models and m in (models or first.models)]
        if shared:
            return [(Side(first, m), Side(second, m)) for m in shared]
    elif len(models) == 1:
        raise UserError("One model of one run has nothing to be compared with: name two, --model A,B.")
    names = list(dict.fromkeys([*first.models, *second.models]))
    if len(names) == 2:
        return [(Side(first, names[0]), Side(second, names[1]))]
    raise UserError(f"Name the two models to compare with --model A,B, out of {', '.join(names)}.")


def compare(pairs: Sequence[tuple[Side, Side]]) -> tuple[list[Difference], list[Refusal]]:
    """Every task and length that both sides of a pair measured, Holm-adjusted over all of them.

    Raises UserError with the reason where nothing can be compared.
    """
    found: list[Found] = []
    refused: list[Refusal] = []
    for first, second in pairs:
        for result in _pair(first, second):
            if isinstance(result, Refusal):
                refused.append(result)
            else:
                found.append(result)
    if not found:
        names = " and ".join(dict.fromkeys(side.model for pair in pairs for side in pair))
        reason = refused[0].reason if refused else "they have no task in common"
        raise UserError(f"{names} cannot be compared: {reason}.")
    p_values = [f.tested.test.p for f in found]
    level = holm_level(p_values)
    return [f.difference(p, level) for f, p in zip(found, holm(p_values), strict=True)], refused


def effective(pairs: Sequence[tuple[Side, Side]], threshold: float) -> list[Effective]:
    """The effective length of each model of the pairs for each task that was measured at two lengths or more."""
    sides = {(side.run.path, side.model): side for pair in pairs for side in pair}
    runs = {path: side.run for (path, _), side in sides.items()}
    found = {path: effective_lengths(Data.of(run), threshold) for path, run in runs.items()}
    return [e for path, model in sides for e in found[path] if e.model == model and e.longest > e.shortest]


@dataclass(frozen=True)
class Found:
    """A comparison of two cells before the adjustment for the others."""

    models: tuple[str, str]
    cell: CellState
    tested: Tested

    def difference(self, p_holm: float, level: float) -> Difference:
        """The row, with its interval at confidence 1 - level."""
        low, high = self.tested.test.limits(level)
        return Difference(
            first_model=self.models[0],
            second_model=self.models[1],
            task=self.cell.task,
            length=self.cell.length,
            metric=self.cell.metric,
            higher_is_better=self.cell.higher_is_better,
            n=self.tested.n,
            groups=self.tested.groups,
            first=self.tested.first,
            second=self.tested.second,
            difference=self.tested.second - self.tested.first,
            low=low,
            high=high,
            confidence=1 - level,
            test=self.tested.test.name,
            p=self.tested.test.p,
            p_holm=p_holm,
            smallest=self.tested.test.detectable(),
        )


def _pair(first: Side, second: Side) -> Iterator[Found | Refusal]:
    theirs = second.cells()
    tasks = {task for task, _, _ in theirs}
    for (task, length, settings), cell in first.cells().items():
        if task not in tasks:
            continue
        partner = theirs.get((task, length, settings))
        if partner is None:
            lengths = {known for name, known, _ in theirs if name == task}
            reason = "different settings of the task" if length in lengths else "measured at other lengths"
            yield Refusal(task, length, reason)
            continue
        yield from _cells((first, cell), (second, partner))


def _cells(first: tuple[Side, str], second: tuple[Side, str]) -> Iterator[Found | Refusal]:
    """The scores of two cells, and what each owes to its context where both were asked with another's too."""
    sides = (first, second)
    models = (first[0].model, second[0].model)
    ours, theirs = (side.run.cells[cell] for side, cell in sides)
    own = [side.run.scored(cell) for side, cell in sides]
    rows = _common(*own)
    reason = _obstacle(ours, theirs, rows)
    found = None if reason else tested(rows, task_of(ours), ours.metric)
    if found is None:
        yield Refusal(ours.task, ours.length, reason or "no sample that both answered with a finite score")
        return
    yield Found(models, ours, found)
    task, other = task_of(ours), [side.run.scored(cell, "other") for side, cell in sides]
    differences = [gains(task, ours, *records) for records in zip(own, other, strict=True)]
    if not _obstacle(ours, theirs, _common(*other)) and (found := tested(_common(*differences), task, GAIN)):
        yield Found(models, ours.model_copy(update={"metric": GAIN, "higher_is_better": True}), found)


def _common(first: Sequence[SampleRecord], second: Sequence[SampleRecord]) -> Pairs:
    known = {s.sample: s for s in second}
    return [(s, known[s.sample]) for s in first if s.sample in known]


def _obstacle(first: CellState, second: CellState, rows: Pairs) -> str:
    """Why two cells cannot be compared sample by sample; empty where they can."""
    if first.task_version != second.task_version:
        return f"different versions of the task ({first.task_version} and {second.task_version})"
    if not rows:
        return "no sample that both answered with a finite score (out of memory, failed or not run)"
    for a, b in rows:
        where = f" (sample {a.sample})"
        if a.prompt != b.prompt:
            return "different prompts" + where
        if a.reference != b.reference:
            return "different references" + where
        for field, reason in SAME_PROMPT.items():
            if a.audit.get(field) != b.audit.get(field):
                return reason + where
    return ""
