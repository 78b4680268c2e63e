"""Two lists of records of the same samples, and the test of the difference between their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.records.json import dumps
from evals.records.models import SampleRecord
from evals.report.stats.clusters import cluster_codes, has_finite, metric_table
from evals.report.stats.paired_tests import PairedTest, paired_scores, paired_statistic
from evals.tasks.base import BaseTask

Pairs = Sequence[tuple[SampleRecord, SampleRecord]]

SAME_PROMPT = {
    "template_sha256": "different prompt templates",
    "cut_tokens": "different truncation",
    "cut_at": "different truncation",
    "bos": "different numbers of BOS tokens",
    "tokens": "prompts with different numbers of tokens (different tokenizers?)",
}
"""What the audits of two records must agree in, and what it means where they do not."""


@dataclass(frozen=True)
class Tested:
    """n: pairs; groups: their clusters. first, second: scores of the two sides. test: of second minus first."""

    n: int
    groups: int
    first: float
    second: float
    test: PairedTest


def asked(sample: SampleRecord) -> int:
    """A hash of all that must be the same where two records are compared: prompt, reference and audit."""
    audit = [sample.audit.get(field) for field in SAME_PROMPT]
    return hash(dumps([sample.prompt.head, sample.prompt.tail, sample.reference, audit]))


def by_mean(task: BaseTask) -> bool:
    """Whether the score of a cell is the mean of its samples' scores."""
    return type(task).summarize is BaseTask.summarize


def tested(rows: Pairs, task: BaseTask, metric: str) -> Tested | None:
    """The test on the pairs that have finite scores; None where there are none. Clusters are those of the first."""
    mean = by_mean(task)
    rows = [row for row in rows if all(has_finite(sample, metric if mean else None) for sample in row)]
    if not rows:
        return None
    before, after = [a for a, _ in rows], [b for _, b in rows]
    codes, groups = cluster_codes(before)
    if mean:
        first, second = (metric_table(side, [metric])[:, 0] for side in (before, after))
        test = paired_scores(first, second, codes)
        return Tested(len(rows), groups, float(first.mean()), float(second.mean()), test)
    found = paired_statistic(before, after, task.summarize, metric)
    return None if found is None else Tested(len(rows), groups, *found)
