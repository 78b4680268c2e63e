"""What a score owes to the context: the same questions with their own context, another's, and none (`--context`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.records.models import CellState, Control, SampleRecord
from evals.report.matched_pairs import Pairs, Tested, by_mean, tested
from evals.report.stats.interval import FEWEST, LEVEL, Interval
from evals.report.stats.means import mean_intervals
from evals.report.stats.paired_tests import StudentTest
from evals.tasks.base import BaseTask

GAIN = "gain"


@dataclass(frozen=True)
class ContextUse:
    """metrics: the score with each control, and the gain. pairs: samples that the gain rests on. tested: whether the
    score without a context differs from that with its own; None where that was not asked, or of too few samples.
    """

    metrics: dict[str, Interval]
    pairs: int
    tested: bool | None


def context_use(task: BaseTask, state: CellState, samples: Mapping[Control, Sequence[SampleRecord]]) -> ContextUse:
    """What the records of a cell, by control, say about the use of its context.

    gain: own minus other, or the reverse where lower scores are better. Its interval is the inversion of the paired
    test; a t test of fewer than FEWEST contexts gives none. The two scores of a sample count as one observation, in
    the cluster of its own context.
    """
    metric, own = state.metric, samples.get("own", ())
    metrics: dict[str, Interval] = {}
    for control in ("other", "none"):
        if found := _score(task, samples.get(control, ()), metric):
            metrics[f"{metric}_{control}"] = found
    gain = _against(task, metric, own, samples.get("other", ()))
    if gain is not None:
        few = gain.groups < FEWEST and isinstance(gain.test, StudentTest)
        low, high = (float("nan"), float("nan")) if few else gain.test.limits()
        estimate = gain.second - gain.first
        found = Interval(estimate, low, high)
        metrics[GAIN] = found if state.higher_is_better else Interval(-estimate, -high, -low)
    none = _against(task, metric, own, samples.get("none", ()))
    return ContextUse(metrics, gain.n if gain else 0, None if none is None else _shown(none))


def gains(
    task: BaseTask, state: CellState, own: Sequence[SampleRecord], other: Sequence[SampleRecord]
) -> list[SampleRecord]:
    """The records of `own` with their gain as the only metric, for `compare`; none where it is no mean of samples'."""
    if not by_mean(task):
        return []
    metric, sign = state.metric, 1 if state.higher_is_better else -1
    return [
        mine.model_copy(update={"metrics": {GAIN: sign * (mine.metrics[metric] - theirs.metrics[metric])}})
        for theirs, mine in _pairs(own, other)
        if metric in mine.metrics and metric in theirs.metrics
    ]


def _shown(difference: Tested) -> bool | None:
    """Whether a difference is shown; None where so few samples could show none."""
    if difference.test.p <= LEVEL:
        return True
    return None if difference.groups < FEWEST and np.isinf(difference.test.detectable()) else False


def _score(task: BaseTask, samples: Sequence[SampleRecord], metric: str) -> Interval | None:
    if by_mean(task):
        return mean_intervals(samples).get(metric)
    value = task.summarize(samples).get(metric) if samples else None
    return None if value is None else Interval(value)


def _against(
    task: BaseTask, metric: str, own: Sequence[SampleRecord], control: Sequence[SampleRecord]
) -> Tested | None:
    return tested(_pairs(own, control), task, metric)


def _pairs(own: Sequence[SampleRecord], control: Sequence[SampleRecord]) -> Pairs:
    """Control and own record of each sample that has both; the id of a control ends with its name."""
    known = {sample.sample: sample for sample in own}
    found = ((c, known.get(c.sample.removesuffix(f"-{c.control}"))) for c in control)
    return [(c, mine) for c, mine in found if mine is not None]
