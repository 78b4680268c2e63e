"""Cells as they finish, for a dashboard: `--log trackio`.

trackio (github.com/gradio-app/trackio) keeps its data on this machine unless told otherwise by its own settings. Each
model is a run of the project that the run folder names, each cell one entry at the step of its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from evals.errors import UserError
from evals.records.json import Json
from evals.records.models import CellState, PerfRecord, SampleRecord
from evals.records.store import RunStore
from evals.run.grid import Cell
from evals.run.spec import Logger
from evals.tasks.base import BaseTask

PROJECT = "sharedllm"
LOCAL = ("data_dir", "checkpoint")
"""Fields of a specification that are paths of this machine: not sent."""


class _Run(Protocol):
    """What we need of a run of trackio."""

    def log(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def finish(self) -> None: ...


class Stream:
    """Sends each cell on when it has its state. Use as a context manager.

    store: of the run. spec: goes along as the configuration.
    """

    def __init__(self, logger: Logger, store: RunStore, spec: Json) -> None:
        """Raises UserError where the package of the logger is not installed."""
        try:
            self._module: Any = import_module(logger.value)
        except ModuleNotFoundError as error:
            if error.name != logger.value:
                raise
            raise UserError(
                f"--log {logger.value} needs the package {logger.value}: pip install 'sharedllm[{logger.value}]'."
            ) from error
        self._store = store
        self._spec = {name: value for name, value in spec.items() if name not in LOCAL}
        self._runs: dict[str, _Run] = {}

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        runs = list(self._runs.values())
        for run in runs[:-1]:
            run.finish()
        if runs:
            self._module.finish()  # the last one is the package's current run, which it would finish again at exit

    def finish(self, cell: Cell, state: CellState) -> None:
        """A cell has its state: its metrics and costs, as far as it has any."""
        found = {f"{cell.task.name}/{name}": value for name, value in self._measured(cell).items()}
        if found:
            self._run(cell.model.name).log({**found, "length": float(cell.length or 0)}, step=cell.length)

    def _run(self, model: str) -> _Run:
        if model not in self._runs:
            config = {**self._spec, "model": model}
            self._runs[model] = self._module.init(
                project=PROJECT, name=f"{self._store.folder.name}-{model}", config=config
            )
        return self._runs[model]

    def _measured(self, cell: Cell) -> Mapping[str, float]:
        samples, found = list[SampleRecord](), dict[str, float]()
        for record in self._store.records(cell.id):
            if isinstance(record, PerfRecord):
                found |= _costs(record)
            elif record.status == "ok" and record.control == "own":
                samples.append(record)
        task: BaseTask = cell.task.task
        return {**(task.summarize(samples) if samples else {}), **found}


def _costs(perf: PerfRecord) -> dict[str, float]:
    costs = {"ttft_s": perf.ttft_s, "tpot_ms": perf.tpot_ms, "peak_bytes": perf.peak_bytes}
    return {name: float(value) for name, value in costs.items() if value is not None}
