"""The answered cells: read a context once, ask every question about it, write down each answer."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

from evals.measure.request import cold, synchronize
from evals.methods.base import LongContextModel, NotFiniteError
from evals.records.models import PerfRecord, not_finite
from evals.records.open_run import OpenRun
from evals.run.finite import unusable_output
from evals.run.grid import Cell
from evals.run.progress import Watcher
from evals.run.samples import Asked, answer, answered, audit, record, refused, score
from evals.run.spec import RunSpec
from evals.tasks.base import Instance, Output


@dataclass
class Spent:
    """Seconds spent loading (imports and weights) and in models (reading, answering, measuring)."""

    load_s: float = 0.0
    model_s: float = 0.0


class Answering:
    """Asks the requests of one cell after another. Requests with equal context share one read of it."""

    def __init__(self, store: OpenRun, spec: RunSpec, progress: Watcher, spent: Spent) -> None:
        self.store = store
        self.spec = spec
        self.progress = progress
        self.spent = spent
        self._unfinished: list[bool] = []

    def ask(self, model: LongContextModel, cell: Cell, instances: Sequence[Instance]) -> list[bool]:
        """Answer those instances of a cell that have no record yet, each context read once.

        The order is that of an undisturbed run, whatever was answered before. Returns for each answer whether it
        ended inside a block of thinking.
        """
        self._unfinished = []
        done = self.store.samples.get(cell.id, set())
        for instance in instances:
            if instance.refused is not None and instance.id not in done:
                self.store.append(refused(cell, instance, instance.refused))
                self.progress.step(cell)
        instances = [instance for instance in instances if instance.refused is None]
        size = self.batch_size(model)
        waiting: list[Asked] = []
        for group in self._groups(instances, longest_first=size > 1):
            todo = [instance for instance in group if instance.id not in done]
            if todo:
                waiting = self._ask_group(model, cell, todo, waiting, size)
        if waiting:
            self._answer(model, cell, waiting)
        return self._unfinished

    def measure(self, model: LongContextModel, cell: Cell, instance: Instance) -> None:
        """The cold pass of a cell: time and memory of one of its requests."""
        start = time.perf_counter()
        measurement = cold(model, instance)
        self.spent.model_s += time.perf_counter() - start
        self.store.append(PerfRecord.of(cell.id, measurement))
        self.progress.step(cell)

    def batch_size(self, model: LongContextModel) -> int:
        """Requests at once: 1 for a method that has no way of its own to decode several."""
        able = type(model).generate_batch is not LongContextModel.generate_batch
        return self.spec.batch_size if able else 1

    def _ask_group(
        self, model: LongContextModel, cell: Cell, group: Sequence[Instance], waiting: list[Asked], size: int
    ) -> list[Asked]:
        """Requests of one context; returns those that wait for a full batch. Nothing else keeps the session alive:
        it must be gone before the next context is read.
        """
        for asked in self._read(model, cell, group):
            if asked.instance.target is not None:
                self._answer(model, cell, [asked])
                continue
            waiting.append(asked)
            if len(waiting) == size:
                self._answer(model, cell, waiting)
                waiting = []
        return waiting

    def _groups(self, instances: Collection[Instance], longest_first: bool) -> list[list[Instance]]:
        """Instances that share a read, in the order in which a task gives the first of each.

        longest_first: rows of a batch then have similar lengths, and a lack of memory shows at once.
        """
        groups: dict[Hashable, list[Instance]] = {}
        for instance in instances:
            key = instance.prompt.reading if self.spec.reuse else instance.id
            groups.setdefault(key, []).append(instance)
        found = list(groups.values())
        return sorted(found, key=lambda group: -len(group[0].prompt)) if longest_first else found

    def _read(self, model: LongContextModel, cell: Cell, group: Sequence[Instance]) -> Iterator[Asked]:
        """Read the context of a group once, for each of its requests."""
        for instance in group:
            audit(instance, cell)
        prompt = group[0].prompt
        start = time.perf_counter()
        session = model.prefill(prompt.context, prefix_ids=prompt.prefix)
        synchronize(model.devices)
        read_s = time.perf_counter() - start
        self.spent.model_s += read_s
        for instance in group:
            yield Asked(instance, session, read_s)
            read_s = 0.0  # the others found it read

    def _answer(self, model: LongContextModel, cell: Cell, batch: Sequence[Asked]) -> None:
        """Answer requests and write them down; the time of a batch is shared out evenly."""
        start = time.perf_counter()
        try:
            outputs, failure = answer(model, batch), None
        except NotFiniteError as error:
            if len(batch) > 1:  # the others of a batch may be sound
                for asked in batch:
                    self._answer(model, cell, [asked])
                return
            outputs, failure = [Output()], str(error).rstrip(".")
        answer_s = time.perf_counter() - start
        self.spent.model_s += answer_s
        for asked, output in zip(batch, outputs, strict=True):
            fault = failure or (None if model.remote else unusable_output(asked, output))
            metrics = {} if fault else score(answered(cell), asked.instance, output)
            fault = fault or not_finite(metrics)
            self.store.append(record(model, cell, asked, output, metrics, answer_s / len(batch), fault))
            self._unfinished.append(output.unfinished_thinking)
            self.progress.step(cell)
