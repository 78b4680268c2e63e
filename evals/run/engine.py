"""Runs cells: load a model once, then answer or measure each of its cells.

Models are the outermost loop. A cell that fails is recorded and the others go on: the exit code says so.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TypeVar

import torch

from evals.errors import UserError
from evals.measure.request import PeakMemory, first_line, is_out_of_memory, out_of_memory, synchronize
from evals.measure.task import MeasuredTask
from evals.methods import kernels as attention
from evals.methods.base import LongContextModel, NotFiniteError
from evals.records.json import Json
from evals.records.models import ModelEntry, PerfRecord, Status
from evals.records.open_run import OpenRun
from evals.records.store import StoreError
from evals.run.answering import Answering, Spent
from evals.run.begun import MOST_DEATHS, Begun
from evals.run.grid import Cell
from evals.run.identity import ModelChoice, digest
from evals.run.instances import Instances
from evals.run.isolated import Loaded, Result, measure_isolated
from evals.run.left import left_to_do
from evals.run.progress import Watcher
from evals.run.samples import AuditError, too_long
from evals.run.signals import terminable
from evals.run.spec import RunSpec
from evals.tasks.common.thinking import hint

T = TypeVar("T")


class Engine:
    """Executes the cells of one run, or of a part of it.

    most_deaths: of processes on one cell, before the cell counts as failed.
    """

    def __init__(
        self, store: OpenRun, spec: RunSpec, progress: Watcher, spent: Spent, most_deaths: int = MOST_DEATHS
    ) -> None:
        self.store = store
        self.spec = spec
        self.progress = progress
        self.spent = spent
        self.instances = Instances(spec.limit)
        self.begun = Begun(store, most_deaths)
        self.answering = Answering(store, spec, progress, spent)
        self.states = store.meta.cells
        self._warm: tuple[str, LongContextModel] | None = None

    def execute(self, cells: Sequence[Cell]) -> None:
        """Run what is not done yet. `run.json` and `samples.jsonl` hold the results.

        Raises StoreError where the disk fails, AuditError where a prompt breaks a rule; anything else that
        goes wrong in a cell is recorded as the state of that cell.
        """
        todo = left_to_do(cells, self.store, self.spec, self.progress)
        for _, group in groupby(todo, key=lambda cell: cell.model.name):
            self.run_model(list(group))
        self.release()

    def run_model(self, todo: Sequence[Cell]) -> None:
        """Run cells of one model. It stays loaded until another model's turn comes, or `release`."""
        if self._warm is None or self._warm[0] != todo[0].model.name:
            self.release()
            gc.freeze()  # the libraries' objects stay: without them a collection takes a tenth of the time
        isolated = [cell for cell in todo if isinstance(cell.task.task, MeasuredTask)]
        here = [cell for cell in todo if not isinstance(cell.task.task, MeasuredTask)]
        if isolated:  # first, while this process holds nothing on the device
            self.release()
            self._measure_isolated(isolated)
        if here:
            with attention.kernel_order(here[0].model.runtime.kernel_order):
                self._run_here(here)

    def release(self) -> None:
        """Let the loaded model go, and give its memory back."""
        self._warm = None
        _free()

    def _run_here(self, todo: Sequence[Cell]) -> None:
        """Cells of one model, in this process."""
        deadly = self.begun.deadly(todo)
        if deadly:
            self._settle(deadly, "failed", self.begun.reason)
            todo = [cell for cell in todo if cell not in deadly]
        if not todo:
            return
        with self._watched(todo, self.begun.undo):
            model = self._guard(todo, partial(self._load, todo[0].model))
        if model is None:
            return
        for cell in todo:
            self.states[cell.id].max_context = model.max_context
            _free()
            with self._watched([cell], self.begun.survived):
                self._guard([cell], partial(self._run_cell, model, cell))

    @contextmanager
    def _watched(self, cells: Sequence[Cell], end: Callable[[Sequence[Cell]], None]) -> Iterator[None]:
        """Notes that cells are at work, so that a next start knows if this process died on them. end: notes the end."""
        self.begun.start(cells)
        self._save(cells)
        try:
            yield
        finally:
            end(cells)
            self._save(cells)

    def _save(self, cells: Sequence[Cell]) -> None:
        self.store.save_cells(*(cell.id for cell in cells))

    def _run_cell(self, model: LongContextModel, cell: Cell) -> None:
        PeakMemory(model.devices).start()
        instances = self.instances.of(cell, model.tokenizer)
        if not instances:
            if cell.length is None:
                raise UserError(f"{cell.task.name} has no sample in these data: choose another subset or --data-dir.")
            raise UserError(f"{cell.task.name} has no sample of length {cell.length}: choose another length.")
        answerable = [instance for instance in instances if instance.refused is None]
        if not answerable:
            raise UserError(str(instances[0].refused))
        done = self.store.samples.get(cell.id, set())
        measure = self.spec.perf and cell.id not in self.store.perf
        self.progress.begin(cell, sum(instance.id not in done for instance in instances) + measure)
        unfinished = self.answering.ask(model, cell, instances)
        if advice := hint(unfinished):
            self.progress.log(f"{cell.model.name}, {cell.task.name}: {advice}")
        if measure:
            self.answering.measure(model, cell, answerable[0])
        state = self.states[cell.id]
        state.limit, state.samples = self.spec.limit, len(instances)
        state.cut, state.skipped = too_long(instances)
        failed = self.store.failed.get(cell.id, {})
        if faults := [failed[instance.id] for instance in answerable if instance.id in failed]:
            self._settle([cell], "failed", f"{len(faults)} of {len(instances)} samples have no score: {faults[0]}.")
        else:
            self._settle([cell], "ok", None)

    def _measure_isolated(self, cells: Sequence[Cell]) -> None:
        """Cells of one model whose task measures: each has its state when this returns."""
        self.store.forget({cell.id for cell in cells})
        left = {cell.id: cell for cell in cells}
        self.progress.begin(cells[0], 1)
        before = time.perf_counter()
        for message in measure_isolated(cells):
            now = time.perf_counter()
            if isinstance(message, Loaded):
                self.spent.load_s += now - before
                self._note_model(cells[0].model, message.fairness)
                for cell in left.values():
                    self.states[cell.id].max_context = message.max_context
            else:
                self.spent.model_s += now - before
                self._note_measured(left.pop(message.cell), message)
                if left:
                    self.progress.begin(next(iter(left.values())), 1)
            before = time.perf_counter()

    def _note_measured(self, cell: Cell, result: Result) -> None:
        if result.traceback:
            self.progress.log(result.traceback)
        if result.status != "failed":
            self.store.append(*result.records())
            self.states[cell.id].limit, self.states[cell.id].samples = None, 1 if result.metrics else 0
        self._settle([cell], result.status, result.error, traceback=result.traceback, bad_input=result.bad_input)

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
        except NotFiniteError as error:
            self._settle(cells, "failed", str(error))
        except Exception as error:
            if is_out_of_memory(error):
                self._record_out_of_memory(cells, error)
            else:
                text = traceback.format_exc()
                self.progress.log(text)
                self._settle(cells, "failed", f"{type(error).__name__}: {first_line(error)}", traceback=text)
        return None

    def _settle(
        self,
        cells: Sequence[Cell],
        status: Status,
        error: str | None,
        traceback: str | None = None,
        bad_input: bool = False,
    ) -> None:
        terminable.check()  # a stop that a library caught, or that ended a process of ours, is no fault of the cells
        for cell in cells:
            state = self.states[cell.id]
            state.status, state.error, state.traceback, state.bad_input = status, error, traceback, bad_input
        self._save(cells)
        for cell in cells:
            self.progress.finish(cell, self.states[cell.id])

    def _record_out_of_memory(self, cells: Sequence[Cell], error: BaseException) -> None:
        """The peak goes into the place of the cold pass, which cannot run any more."""
        measurement = out_of_memory(PeakMemory(cells[0].model.runtime.devices()), error)
        for cell in cells:
            if cell.id not in self.store.perf:
                self.store.append(PerfRecord.of(cell.id, measurement))
        self._settle(cells, "oom", first_line(error))

    def _load(self, choice: ModelChoice) -> LongContextModel:
        if self._warm:
            return self._warm[1]
        PeakMemory(choice.runtime.devices()).start()
        start = time.perf_counter()
        self.progress.log(f"Loading {choice.name}")
        model = choice.method.load(choice.preset, choice.runtime)
        synchronize(model.devices)
        self.spent.load_s += time.perf_counter() - start
        if self.answering.batch_size(model) < self.spec.batch_size:
            self.progress.log(f"{choice.name} decodes one request at a time: --batch-size does nothing for it.")
        self._note_model(choice, model.fairness)
        self._warm = choice.name, model
        return model

    def _note_model(self, choice: ModelChoice, fairness: Json) -> None:
        order = choice.runtime.kernel_order
        self.store.meta.models[choice.name] = ModelEntry(
            preset=choice.preset.model_dump(mode="json"),
            fairness={**fairness, "kernel order": list(order)} if order else fairness,
            identity=digest(choice.identity),
            identity_parts=choice.identity,
        )
        self.store.save()


def _free() -> None:
    """Give memory of finished requests back before the next cell."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
