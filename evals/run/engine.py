"""Runs cells: load a model once, read a context once, ask every question about it, write down each answer.

Models are the outermost loop. Within a cell, requests with equal context share one read (the answers equal
those of fresh reads); time and memory come from a separate cold pass (`evals.measure.request`). A cell that fails is
recorded and the others go on: the exit code says so.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch

from evals.errors import UserError
from evals.measure.request import PeakMemory, cold, first_line, is_out_of_memory, synchronize
from evals.measure.task import MeasuredTask
from evals.methods import kernels as attention
from evals.methods.base import LongContextModel
from evals.records.store import Run, StoreError
from evals.run.grid import Cell, ModelChoice, digest
from evals.run.instances import Instances
from evals.run.isolated import Loaded, Result, measure_isolated
from evals.run.progress import Progress
from evals.run.samples import Asked, AuditError, answer, answered, audit, describe, score
from evals.run.spec import RunSpec
from evals.tasks.base import Instance
from evals.tasks.common.thinking import hint

T = TypeVar("T")


@dataclass
class Spent:
    """Seconds spent loading (imports and weights) and in models (reading, answering, measuring)."""

    load_s: float = 0.0
    model_s: float = 0.0


class Engine:
    """Executes the cells of one run."""

    def __init__(self, run: Run, spec: RunSpec, progress: Progress, spent: Spent) -> None:
        self.run = run
        self.spec = spec
        self.progress = progress
        self.spent = spent
        self.instances = Instances(spec.limit)
        self.unfinished: list[bool] = []
        """Of each answer of the cell at work: whether it ended inside a block of thinking."""
        self.states: dict[str, dict[str, Any]] = run.meta["cells"]

    def execute(self, cells: Sequence[Cell]) -> None:
        """Run what is not done yet. `run.json` and `samples.jsonl` hold the results.

        Raises StoreError where the disk fails, AuditError where a prompt breaks a rule; anything else that
        goes wrong in a cell is recorded as the state of that cell.
        """
        for cell in cells:
            self.states.setdefault(cell.id, {**cell.record(), "status": "pending", "error": None})
        self.run.save()
        gc.freeze()  # the libraries' objects stay: without them a collection takes a tenth of the time
        for _, group in groupby(cells, key=lambda cell: cell.model.name):
            self._run_model(list(group))
            _free()

    def is_complete(self, cell: Cell) -> bool:
        """Whether nothing is left to do for the cell: out of memory is an end, a failure is not."""
        state = self.states[cell.id]
        if state["status"] != "ok":
            return state["status"] == "oom"
        done = state["limit"]
        covered = done is None or (self.spec.limit is not None and self.spec.limit <= done)
        return covered and (not self.spec.perf or cell.id in self.run.perf)

    def _run_model(self, cells: Sequence[Cell]) -> None:
        todo = [cell for cell in cells if not self.is_complete(cell)]
        for cell in cells:
            if cell not in todo:
                self.progress.finish(cell, self.states[cell.id])
        isolated = [cell for cell in todo if isinstance(cell.task.task, MeasuredTask)]
        todo = [cell for cell in todo if not isinstance(cell.task.task, MeasuredTask)]
        if isolated:  # first: this process holds nothing on the device yet
            self._measure_isolated(isolated)
        if not todo:
            return
        with attention.kernel_order(todo[0].model.runtime.kernel_order):
            self._run_here(todo)

    def _run_here(self, todo: Sequence[Cell]) -> None:
        """Cells of one model, in this process."""
        model = self._guard(todo, partial(self._load, todo[0].model))
        if model is None:
            return
        for cell in todo:
            self.states[cell.id]["max_context"] = model.max_context
            _free()
            self._guard([cell], partial(self._run_cell, model, cell))

    def _guard(self, cells: Sequence[Cell], action: Callable[[], T]) -> T | None:
        """Do something for cells; if it fails, that becomes their state and the sweep goes on.

        Nothing is hidden: a failure is printed with its traceback, stored in `run.json` and counted, and the
        exit code is not 0. What must end the run (StoreError, AuditError, KeyboardInterrupt) passes through.
        """
        try:
            return action()
        except (StoreError, AuditError):
            raise
        except UserError as error:
            self._settle(cells, "failed", str(error), bad_input=True)
        except Exception as error:
            if is_out_of_memory(error):
                self._record_out_of_memory(cells, error)
            else:
                text = traceback.format_exc()
                self.progress.log(text)
                message = f"{type(error).__name__}: {first_line(error)}"
                self._settle(cells, "failed", message, traceback=text)
        return None

    def _settle(self, cells: Sequence[Cell], status: str, error: str | None, **more: Any) -> None:
        for cell in cells:
            state = self.states[cell.id]
            for key in ("traceback", "bad_input"):
                state.pop(key, None)
            state.update(status=status, error=error, **more)
            self.progress.finish(cell, state)
        self.run.save()

    def _record_out_of_memory(self, cells: Sequence[Cell], error: BaseException) -> None:
        """The peak goes into the place of the cold pass, which cannot run any more."""
        memory = PeakMemory(torch.device(self.spec.device))
        peak = {"peak_bytes": memory.peak_bytes(), "reserved_bytes": memory.reserved_bytes()}
        for cell in cells:
            if cell.id not in self.run.perf:
                self.run.append({"kind": "perf", "cell": cell.id, "status": "oom", "error": first_line(error), **peak})
        self._settle(cells, "oom", first_line(error))

    def _load(self, choice: ModelChoice) -> LongContextModel:
        PeakMemory(torch.device(self.spec.device)).start()
        start = time.perf_counter()
        self.progress.log(f"Loading {choice.name}")
        model = choice.method.load(choice.preset, choice.runtime)
        synchronize(model.device)
        self.spent.load_s += time.perf_counter() - start
        if self.batch_size(model) < self.spec.batch_size:
            self.progress.log(f"{choice.name} decodes one request at a time: --batch-size does nothing for it.")
        self._note_model(choice, model.fairness)
        return model

    def _note_model(self, choice: ModelChoice, fairness: dict[str, Any]) -> None:
        self.run.meta["models"][choice.name] = {
            "preset": choice.preset.model_dump(mode="json"),
            "budget": {**fairness, "kernel order": list(order)} if (order := choice.runtime.kernel_order) else fairness,
            "identity": digest(choice.identity),
        }
        self.run.save()

    def _measure_isolated(self, cells: Sequence[Cell]) -> None:
        """Cells of one model whose task measures: each has its state when this returns."""
        left = {cell.id: cell for cell in cells}
        self.progress.begin(cells[0], 1)
        before = time.perf_counter()
        for message in measure_isolated(cells):
            now = time.perf_counter()
            if isinstance(message, Loaded):
                self.spent.load_s += now - before
                self._note_model(cells[0].model, message.fairness)
                for cell in left.values():
                    self.states[cell.id]["max_context"] = message.max_context
            else:
                self.spent.model_s += now - before
                self._note_measured(left.pop(message.cell), message)
                if left:
                    self.progress.begin(next(iter(left.values())), 1)
            before = time.perf_counter()

    def _note_measured(self, cell: Cell, result: Result) -> None:
        if result.status == "failed":
            if result.traceback:
                self.progress.log(result.traceback)
                self._settle([cell], "failed", result.error, traceback=result.traceback)
            else:
                self._settle([cell], "failed", result.error, bad_input=result.bad_input)
            return
        if result.metrics:
            self.run.append({"kind": "sample", "cell": cell.id, **result.sample()})
        self.run.append({"kind": "perf", "cell": cell.id, **(result.perf or {})})
        self._settle([cell], result.status, result.error, limit=None)

    def _run_cell(self, model: LongContextModel, cell: Cell) -> None:
        PeakMemory(model.device).start()
        instances = self.instances.of(cell, model.tokenizer)
        if not instances:
            raise UserError(f"{cell.task.name} has no sample of length {cell.length}: choose another length.")
        done = self.run.done.get(cell.id, set())
        todo = [instance for instance in instances if instance.id not in done]
        measure = self.spec.perf and cell.id not in self.run.perf
        self.progress.begin(cell, len(todo) + measure)
        self.unfinished.clear()
        self._ask(model, cell, todo)
        if advice := hint(self.unfinished):
            self.progress.log(f"{cell.model.name}, {cell.task.name}: {advice}")
        if measure:
            self._measure(model, cell, instances[0])
        self._settle([cell], "ok", None, limit=self.spec.limit)

    def _ask(self, model: LongContextModel, cell: Cell, instances: Sequence[Instance]) -> None:
        """Put every request to its context, each context read once; generations together where that is asked."""
        size = self.batch_size(model)
        waiting: list[Asked] = []
        for group in self._groups(instances, longest_first=size > 1):
            waiting = self._ask_group(model, cell, group, waiting, size)
        if waiting:
            self._answer(model, cell, waiting)

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

    def batch_size(self, model: LongContextModel) -> int:
        """Requests at once: 1 for a method that has no way of its own to decode several."""
        able = type(model).generate_batch is not LongContextModel.generate_batch
        return self.spec.batch_size if able else 1

    def _groups(self, instances: Sequence[Instance], longest_first: bool) -> list[list[Instance]]:
        """Instances that share a read, in the order in which a task gives the first of each.

        longest_first: rows of a batch then have similar lengths, and a lack of memory shows at once.
        """
        groups: dict[str, list[Instance]] = {}
        for instance in instances:
            key = instance.prompt.context_key if self.spec.reuse else instance.id
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
        synchronize(model.device)
        read_s = time.perf_counter() - start
        self.spent.model_s += read_s
        for instance in group:
            yield Asked(instance, session, read_s)
            read_s = 0.0  # the others found it read

    def _answer(self, model: LongContextModel, cell: Cell, batch: Sequence[Asked]) -> None:
        """Answer requests and write them down; the time of a batch is shared out evenly."""
        start = time.perf_counter()
        outputs = answer(model, batch)
        answer_s = time.perf_counter() - start
        self.spent.model_s += answer_s
        for asked, output in zip(batch, outputs, strict=True):
            self.run.append(
                {
                    "kind": "sample",
                    "cell": cell.id,
                    **describe(model, asked.instance, output),
                    "metrics": score(answered(cell), asked.instance, output),
                    "trace": asked.session.trace(),
                    "seconds": {"read": asked.read_s, "answer": answer_s / len(batch)},
                }
            )
            self.unfinished.append(output.unfinished_thinking)
            self.progress.step()

    def _measure(self, model: LongContextModel, cell: Cell, instance: Instance) -> None:
        start = time.perf_counter()
        record = cold(model, instance)
        self.spent.model_s += time.perf_counter() - start
        self.run.append({"kind": "perf", "cell": cell.id, **record})
        self.progress.step()


def _free() -> None:
    """Give memory of finished requests back before the next cell."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
