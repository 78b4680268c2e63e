"""An engine that invents records in place of loading models, and the worker that has it: for `driver_throughput.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from many_samples import record

from evals.records.models import ModelEntry
from evals.run.cluster.worker import Worker
from evals.run.engine import Engine
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.run.spec import RunSpec


class Inventing(Engine):
    """Runs cells as ever, of a model that is not there: their records are invented."""

    def _load(self, choice: ModelChoice) -> Any:
        self.store.meta.models[choice.name] = ModelEntry(preset=choice.preset.model_dump(mode="json"))
        self.store.save()
        self._warm = choice.name, SimpleNamespace(max_context=None, devices=[torch.device("cpu")])
        return self._warm[1]

    def _run_cell(self, model: Any, cell: Cell) -> None:
        count = self.spec.limit or 1
        self.progress.begin(cell, count)
        for number in range(count):
            self.store.append(record(cell.id, number))
            self.progress.step(cell)
        self.states[cell.id].limit, self.states[cell.id].samples = count, count
        self._settle([cell], "ok", None)


class InventingWorker(Worker):
    """A worker with that engine."""

    def __init__(self, spec: RunSpec, *others: Any) -> None:
        super().__init__(spec, *others)
        self._engine = Inventing(self._relay, spec, self._relay, self._spent)
