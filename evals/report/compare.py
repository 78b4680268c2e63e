"""Is one model better than another, or is it luck? Paired comparison of two models on the samples both
answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evals.errors import UserError, unknown
from evals.records.models import CellState, SampleRecord
from evals.report import stats
from evals.report.load import Run, task_of
from evals.tasks.base import BaseTask

LEVEL = 0.05
SAME_PROMPT = {
    "template_sha256": "other prompt templates",
    "cut_tokens": "other truncation",
    "cut_at": "other truncation",
    "bos": "another number of BOS tokens",
    "tokens": "prompts of another number of tokens (another tokenizer?)",
}


Pairs = list[tuple[SampleRecord, SampleRecord]]


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

    n: pairs; groups: their clusters. p: of `test`; p_holm: adjusted for all rows of the comparison. smallest:
    the true difference that this many samples show with probability 0.8 (before the adjustment).
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
    test: str
    p: float
    smallest: float
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        if self.p_holm > LEVEL:
            return "no difference shown"
        better = (self.difference > 0) == self.higher_is_better
        return f"{self.second_model if better else self.first_model} is better"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Refusal:
    """Why a task at a length was not compared."""

    task: str
    length: int | None
    reason: str


def choose(runs: Sequence[Run], models: Sequence[str] = ()) -> list[tuple[Side, Side]]:
    """The pairs to compare: two models of one run, or models of two runs.

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
        raise UserError("One model of one run has nothing to be compared with: name two, as --model A,B.")
    names = list(dict.fromkeys([*first.models, *second.models]))
    if len(names) == 2:
        return [(Side(first, names[0]), Side(second, names[1]))]
    raise UserError(f"Name the two models to compare with --model A,B, out of {', '.join(names)}.")


def compare(pairs: Sequence[tuple[Side, Side]], seed: int = 0) -> tuple[list[Difference], list[Refusal]]:
    """Every task and length that both sides of a pair measured, Holm-adjusted over all of them.

    Raises UserError with the reason where nothing can be compared.
    """
    found: list[Difference] = []
    refused: list[Refusal] = []
    for first, second in pairs:
        for result in _pair(first, second, seed):
            (found if isinstance(result, Difference) else refused).append(result)  # type: ignore[arg-type]
    if not found:
        names = " and ".join(dict.fromkeys(side.model for pair in pairs for side in pair))
        reason = refused[0].reason if refused else "they have no task in common"
        raise UserError(f"{names} cannot be compared: {reason}.")
    adjusted = stats.holm([d.p for d in found])
    return [Difference(**{**asdict(d), "p_holm": p}) for d, p in zip(found, adjusted, strict=True)], refused


def _pair(first: Side, second: Side, seed: int) -> list[Difference | Refusal]:
    theirs = second.cells()
    tasks = {task for task, _, _ in theirs}
    results: list[Difference | Refusal] = []
    for (task, length, settings), cell in first.cells().items():
        if task not in tasks:
            continue
        partner = theirs.get((task, length, settings))
        if partner is None:
            lengths = {known for name, known, _ in theirs if name == task}
            reason = "other settings of the task" if length in lengths else "measured at other lengths"
            results.append(Refusal(task, length, reason))
            continue
        rows = _common(first.run.scored(cell), second.run.scored(partner))
        reason = _obstacle(first.run.cells[cell], second.run.cells[partner], rows)
        if reason:
            results.append(Refusal(task, length, reason))
        else:
            results.append(_difference(first, second, first.run.cells[cell], rows, seed))
    return results


def _common(first: list[SampleRecord], second: list[SampleRecord]) -> Pairs:
    known = {s.sample: s for s in second}
    return [(s, known[s.sample]) for s in first if s.sample in known]


def _obstacle(first: CellState, second: CellState, rows: Pairs) -> str:
    """Why two cells cannot be compared sample by sample; empty where they can."""
    if first.task_version != second.task_version:
        return f"other versions of the task ({first.task_version} and {second.task_version})"
    if not rows:
        return "no sample that both answered (out of memory, failed or not run)"
    for a, b in rows:
        where = f" (sample {a.sample})"
        if a.prompt != b.prompt:
            return "other prompts" + where
        if a.reference != b.reference:
            return "other references" + where
        for field, reason in SAME_PROMPT.items():
            if a.audit.get(field) != b.audit.get(field):
                return reason + where
    return ""


def _difference(first: Side, second: Side, cell: CellState, rows: Pairs, seed: int) -> Difference:
    task, metric = task_of(cell), cell.metric
    before, after = [a for a, _ in rows], [b for _, b in rows]
    values = [task.summarize(before)[metric], task.summarize(after)[metric]]
    measure = _of_means if type(task).summarize is BaseTask.summarize else _of_statistic
    found, test, p, binary = measure(task, metric, before, after, seed)
    return Difference(
        first_model=first.model,
        second_model=second.model,
        task=cell.task,
        length=cell.length,
        metric=metric,
        higher_is_better=cell.higher_is_better,
        n=len(rows),
        groups=stats.cluster_codes(before)[1],
        first=values[0],
        second=values[1],
        difference=values[1] - values[0],
        low=found.low,
        high=found.high,
        test=test,
        p=p,
        smallest=stats.smallest_difference(found.se, len(rows), stats.cluster_codes(before)[1], binary),
    )


Measured = tuple[stats.Interval, str, float, bool]


def _of_means(
    task: BaseTask, metric: str, before: list[SampleRecord], after: list[SampleRecord], seed: int
) -> Measured:
    """A mean of sample scores: McNemar where they are 0 or 1 and independent, else sign flips of whole
    clusters.
    """
    a, b = (stats.metric_table(side, [metric]) for side in (before, after))
    codes, clusters = stats.cluster_codes(before)
    sums, counts = stats.cluster_sums(b - a, codes, clusters)
    distribution = stats.bootstrap_means(sums, counts, stats.REPLICATES, seed)[:, 0]
    found = stats.interval(float(np.nanmean(b - a)), distribution, clusters)
    binary = bool(np.isin(np.stack([a, b]), [0.0, 1.0]).all())
    if binary and clusters == len(before):
        return found, "McNemar", stats.mcnemar(a[:, 0], b[:, 0]), binary
    return found, "sign flips by group", stats.sign_flip(sums[:, 0], seed), binary


def _of_statistic(
    task: BaseTask, metric: str, before: list[SampleRecord], after: list[SampleRecord], seed: int
) -> Measured:
    """A metric that only the task can compute (a perplexity): paired pseudo-values of the clusters."""
    (a, pulls_a), (b, pulls_b) = (stats.influences(side, task.summarize) for side in (before, after))
    influence = pulls_b[metric] - pulls_a[metric]
    difference = b[metric] - a[metric]
    found = stats.linear_interval(difference, influence, seed)
    return found, "sign flips by group", stats.sign_flip(difference + influence, seed), False


def verdicts(found: Sequence[Difference], refused: Sequence[Refusal]) -> str:
    """The comparison as text: a line a task and length, then what could not be compared."""
    lines = []
    for pair in dict.fromkeys((d.first_model, d.second_model) for d in found):
        mine = [d for d in found if (d.first_model, d.second_model) == pair]
        lines += [f"{pair[1]} minus {pair[0]}", *_table(mine), ""]
    lines += [f"Not compared: {_where(r)}: {r.reason}." for r in refused]
    lines.append(
        "Intervals: 95 %, bootstrap over clusters. p: two-sided, adjusted by Holm for all lines. Detectable: the "
        "true difference that this many samples show 4 times in 5 at p < 0.05, before the adjustment."
    )
    return "\n".join(lines)


def _table(rows: Sequence[Difference]) -> list[str]:
    head = ["task", "metric", "pairs", "first", "second", "difference", "95 % interval", "p", "test", "detectable"]
    body = [
        [
            _where(d),
            d.metric,
            f"{d.n} in {d.groups}",
            f"{d.first:.4g}",
            f"{d.second:.4g}",
            f"{d.difference:+.4g}",
            "none" if np.isnan(d.low) else f"{d.low:+.3g} to {d.high:+.3g}",
            f"{d.p_holm:.2g}",
            d.test,
            f"{d.smallest:.3g}" if np.isfinite(d.smallest) else "too few groups",
            d.verdict,
        ]
        for d in rows
    ]
    widths = [max(map(len, column)) for column in zip([*head, "verdict"], *body, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in ([*head, "verdict"], *body)
    ]


def _where(row: Difference | Refusal) -> str:
    return row.task if row.length is None else f"{row.task} {row.length}"
