"""What a report needs of the samples of a cell: numbers that stay in memory when the samples do not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evals import registry
from evals.records.models import CellState, SampleRecord
from evals.records.seconds import sample_seconds
from evals.report.gain import ContextUse, context_use
from evals.report.matched_pairs import asked, by_mean
from evals.report.stats import Interval
from evals.report.stats.clusters import cluster_codes, clustered_mean, has_finite, metric_table
from evals.report.stats.interval import Codes, Floats
from evals.report.stats.means import mean_interval, mean_intervals
from evals.report.stats.statistics import influence_intervals, influences, logarithmic
from evals.tasks.base import BaseTask, Task
from evals.tasks.common.source import DataSource
from evals.tasks.settings.controls import CONTROLS
from sharedllm.validation import validate

EMPTY, HIT_LIMIT = "empty", "hit_limit"
"""Shares of generated answers, among the metrics of a cell."""


@dataclass(frozen=True)
class Comparable:
    """What tests against another cell need to know of a cell beside the scores of its samples.

    ids, asked: hashes of the id of each scored sample and of its prompt and reference (S,). same: a hash of all that
    count, ids and prompts. estimate, influence: the first metric where only its task can compute it (a perplexity as
    its logarithm), and the influence of each cluster on it (G,); None where it is a mean.
    """

    ids: Codes
    asked: Codes
    same: int
    estimate: float | None = None
    influence: Floats | None = None


@dataclass(frozen=True)
class Digest:
    """The samples of one cell, summarized.

    total: all of them. left_out: how many do not count, by reason. seconds: of reading and answering all.

    Of questions with their own context: n, groups: those whose metrics are all finite, and clusters among them.
    intervals: the cell's metrics over these. use: against the other contexts, where they were asked too. counted,
    counted_codes: first metric of these, if they have it, and their clusters (N,).
    values, codes: the first metric of every sample that was scored (S,), NaN where it lacks it, and its cluster.
    chance: the score of a guess. depths: place of the needle in percent and first metric of samples that have both
    (S, 2). comparable: for tests. tokens: of the prompt of every sample that was scored (S,), before anything was cut;
    NaN where the record does not say.
    cut, skipped: prompts that were too long for their budget and so were cut, or not asked.
    """

    total: int
    left_out: Counter[str]
    seconds: float
    n: int
    groups: int
    intervals: dict[str, Interval]
    use: ContextUse
    counted: Floats
    counted_codes: Codes
    values: Floats
    codes: Codes
    chance: float
    depths: Floats
    comparable: Comparable
    tokens: Floats
    cut: int
    skipped: int

    @classmethod
    def of(cls, state: CellState, samples: Iterable[SampleRecord]) -> Digest:
        """Raises UserError where the cell's task is not installed or takes other settings now."""
        everything, task, metric = list(samples), task_of(state), state.metric
        scored = [s for s in everything if s.status == "ok" and s.control == "own"]
        finite = [s for s in everything if s.status == "ok" and has_finite(s)]
        asked = {control: [s for s in finite if s.control == control] for control in CONTROLS}
        counted = asked["own"]
        with_metric = [s for s in counted if metric in s.metrics]
        intervals, comparable = _measured(task, metric, scored, counted)
        table = metric_table(with_metric, [metric, "chance"])
        return cls(
            total=len(everything),
            left_out=_left_out(everything),
            seconds=sum(map(sample_seconds, everything)),
            n=len(counted),
            groups=cluster_codes(counted)[1] if counted else 0,
            intervals={**_answer_shares(task, counted), **intervals},
            use=context_use(task, state, asked),
            counted=table[:, 0],
            counted_codes=cluster_codes(with_metric)[0],
            values=metric_table(scored, [metric])[:, 0],
            codes=cluster_codes(scored)[0],
            chance=_chance(task, table[:, 1]),
            depths=_depths(scored, metric),
            comparable=comparable,
            tokens=np.array([s.uncut_tokens for s in scored], dtype=float),
            cut=sum(s.prompt_cut for s in scored),
            skipped=sum(s.skipped for s in everything),
        )


def task_of(cell: CellState) -> BaseTask:
    """The task that a cell was scored with. Raises UserError where it is not installed or takes other settings now."""
    name, _, subset = cell.task.partition(":")
    cls = registry.task(name)
    settings = validate(cls.settings_model, cell.settings, f"the recorded task {cell.task}")
    return cls(subset or None, settings, DataSource())


def _measured(
    task: BaseTask, metric: str, scored: Sequence[SampleRecord], counted: Sequence[SampleRecord]
) -> tuple[dict[str, Interval], Comparable]:
    """Metrics of a cell as its task defines them, with intervals over samples clustered by group, and their tests'."""
    ids = np.array([hash(s.sample) for s in scored], dtype=np.int64)
    prompts = np.array([asked(s) for s in scored], dtype=np.int64)
    same = hash(frozenset((s.sample, asked(s)) for s in counted))
    if by_mean(task) or not counted:
        return mean_intervals(counted), Comparable(ids, prompts, same)
    whole, pulls = influences(counted, logarithmic(task.summarize))
    found = Comparable(ids, prompts, same, whole.get(metric), pulls.get(metric))
    return influence_intervals(whole, pulls), found


def _chance(task: BaseTask, given: Floats) -> float:
    """What the samples say (N,), or else the task."""
    if len(given) and not np.isnan(given).any():
        return float(given.mean())
    return task.chance if isinstance(task, Task) else 0.0


def _answer_shares(task: BaseTask, samples: Sequence[SampleRecord]) -> dict[str, Interval]:
    """Shares of generated answers that are empty, and that their budget cut off (where the records say so)."""
    known = [sample for sample in samples if sample.output.hit_limit is not None]
    earlier = isinstance(task, Task) and task.answer_tokens() > 0
    answered = known or (samples if earlier else [])
    shares = {EMPTY: _share(answered, [not s.output.text.strip() for s in answered])}
    shares[HIT_LIMIT] = _share(known, [bool(s.output.hit_limit) for s in known])
    return {name: share for name, share in shares.items() if share}


def _share(samples: Sequence[SampleRecord], holds: Sequence[bool]) -> Interval | None:
    if not samples:
        return None
    values = np.array(holds, dtype=float)
    return mean_interval(values, clustered_mean(values, cluster_codes(samples)[0]))


def _left_out(samples: Iterable[SampleRecord]) -> Counter[str]:
    return Counter(_reason(sample) for sample in samples if sample.status != "ok" or not has_finite(sample))


def _reason(sample: SampleRecord) -> str:
    if sample.skipped:
        return "skipped, longer than their budget"
    return "failed" if sample.status != "ok" else "without a finite score"


def _depths(samples: Iterable[SampleRecord], metric: str) -> Floats:
    points = [
        (float(s.meta["depth"]), s.metrics[metric])
        for s in samples
        if isinstance(s.meta.get("depth"), int | float) and math.isfinite(s.metrics.get(metric, math.nan))
    ]
    return np.array(points, dtype=float).reshape(-1, 2)
