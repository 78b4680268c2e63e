"""Verdicts of a judge on the answers of a run: asked after the answers are written down, and stored with them.

An answer that the judge gave no verdict on has no score of that judge, is counted, and is asked about again by the next
start of the same command.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from evals import registry
from evals.errors import UserError
from evals.records.models import SampleRecord, Verdict
from evals.records.store import RunStore
from evals.run.answering import Spent
from evals.run.grid import Cell
from evals.tasks.common.thinking import without_thinking
from evals.tasks.settings.judged import Judge, JudgedTask, Messages, judge_metric, unjudged_metric

BATCH = 32
"""Answers whose verdicts are written down together: as much as a kill can lose."""
TOGETHER = 8
"""Requests at a time."""


def check(cells: Sequence[Cell]) -> None:
    """Raises UserError where a judge cannot be asked, before anything runs: its key or a package is missing, or its
    server, if it is there already, has another model.
    """
    for task in {cell.task.name: cell.task.task for cell in cells}.values():
        if isinstance(task, JudgedTask) and task.settings.judge is not None:
            registry.judge(task.settings).check()


def judge(cells: Sequence[Cell], store: RunStore, spent: Spent, log: Callable[[str], None]) -> None:
    """Ask the judges of the cells about every answer that has no verdict of theirs yet."""
    begin = time.perf_counter()
    metrics: dict[str, str] = {}
    try:
        for cell in cells:
            task = cell.task.task
            if isinstance(task, JudgedTask) and task.settings.judge is not None:
                asks = registry.judge(task.settings)
                if _judge_cell(cell, task, asks, store, log):
                    metrics[cell.id] = judge_metric(asks.name)
                elif store.meta.cells[cell.id].metric == judge_metric(asks.name):
                    metrics[cell.id] = task.metric  # its verdicts were on another question
                spent.model_s += time.perf_counter() - begin
                begin = time.perf_counter()
    finally:  # the verdicts of a run that is stopped count, too
        store.apply_amendments()
        for name, metric in metrics.items():
            store.meta.cells[name].metric = metric
        if metrics:
            store.save()


def _judge_cell(cell: Cell, task: JudgedTask, asks: Judge, store: RunStore, log: Callable[[str], None]) -> int:
    """Returns how many answers have a verdict."""
    asked = [
        (sample, requests)
        for sample in store.records(cell.id)
        if isinstance(sample, SampleRecord) and sample.status == "ok" and (requests := task.judge_requests(sample))
    ]
    waiting = [(sample, requests) for sample, requests in asked if _open(sample, requests, asks.name)]
    known = len(asked) - len(waiting)
    faults: list[str] = []
    down: str | None = None
    for at in range(0, len(waiting), BATCH):
        batch = waiting[at : at + BATCH]
        with ThreadPoolExecutor(TOGETHER) as pool:
            verdicts = list(pool.map(lambda pair: _verdict(task, asks, pair[1], down), batch))  # noqa: B023
        store.amend([_with(sample, asks.name, found) for (sample, _), found in zip(batch, verdicts, strict=True)])
        known += sum(found.score is not None for found in verdicts)
        faults += [found.error for found in verdicts if found.error is not None]
        if all(found.error is not None and not found.replies for found in verdicts):
            down = verdicts[0].error
    if faults:
        where = f"{cell.model.name}, {cell.task.name}" + (f" at {cell.length}" if cell.length else "")
        log(f"{where}: {len(faults)} of {len(asked)} answers have no verdict of {asks.name} ({faults[0]})")
    return known


def _open(sample: SampleRecord, requests: Sequence[Messages], name: str) -> bool:
    """Whether an answer has no verdict on this very question."""
    found = sample.verdicts.get(name)
    return found is None or found.score is None or found.asked != _digest(requests)


def _verdict(task: JudgedTask, asks: Judge, requests: Sequence[Messages], down: str | None) -> Verdict:
    """down: why the judge is not asked: a whole batch before had no verdict."""
    asked, replies = _digest(requests), list[str]()
    if down is not None:
        return Verdict(asked=asked, error=down)
    try:
        for messages in requests:
            replies.append(asks(messages))
    except UserError as error:
        return Verdict(asked=asked, error=str(error).rstrip("."), replies=replies)
    score = task.judged([without_thinking(reply) for reply in replies])
    riddle = "its reply is no verdict" if score is None else None
    return Verdict(score=score, error=riddle, asked=asked, replies=replies)


def _digest(requests: Sequence[Messages]) -> str:
    text = json.dumps([[dict(message) for message in messages] for messages in requests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with(sample: SampleRecord, name: str, verdict: Verdict) -> SampleRecord:
    """The record with a verdict, and with what it makes of the metrics."""
    metrics = {key: value for key, value in sample.metrics.items() if key != judge_metric(name)}
    metrics[unjudged_metric(name)] = float(verdict.score is None)
    if verdict.score is not None:
        metrics[judge_metric(name)] = verdict.score
    return sample.model_copy(update={"metrics": metrics, "verdicts": {**sample.verdicts, name: verdict}})
