"""Cells of one model in a process of its own, so that no method inherits memory, caches or a fault of another.

The parent owns the run folder; the child loads, measures and sends what it found. After a failure other than
out of memory the device may be unusable, so the rest goes to a fresh process.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Literal

import torch

from evals.errors import UserError
from evals.measure.device import Rates, measure_rates
from evals.measure.request import PeakMemory, first_line, is_out_of_memory, out_of_memory
from evals.measure.task import MeasuredTask
from evals.methods import kernels as attention
from evals.methods.base import LongContextModel, NotFiniteError
from evals.records.json import Json
from evals.records.models import Answer, Measurement, PerfRecord, SampleRecord
from evals.run.grid import Cell
from sharedllm.processes import end_with_parent


@dataclass(frozen=True)
class Loaded:
    """The model of the cells is ready."""

    fairness: Json
    max_context: int | None


@dataclass(frozen=True)
class Result:
    """One cell is done. perf: time and memory; metrics: of its only sample."""

    cell: str
    status: Literal["ok", "oom", "failed"]
    error: str | None = None
    traceback: str | None = None
    bad_input: bool = False
    perf: Measurement | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def records(self) -> list[SampleRecord | PerfRecord]:
        """What is written down: the measurement, and its metrics as a sample that has no text."""
        if self.perf is None:
            return []
        perf = PerfRecord.of(self.cell, self.perf)
        if not self.metrics:
            return [perf]
        seconds = {"read": perf.read_s or 0.0, "answer": perf.query_s or 0.0}
        answer = Answer(text="", tokens=perf.new_tokens or 0)
        sample = SampleRecord(
            cell=self.cell, sample="cold", metrics=self.metrics, output=answer, group="cold", seconds=seconds
        )
        return [sample, perf]


def measure_isolated(cells: Sequence[Cell]) -> Iterator[Loaded | Result]:
    """Measure cells of one model; every cell gets exactly one `Result`, `Loaded` comes once per process.

    A child that dies (killed, segmentation fault) fails the cell it worked on, and the rest goes on.
    """
    left = list(cells)
    while left:
        done = set()
        for message in _one_process(left):
            if isinstance(message, Result):
                done.add(message.cell)
            yield message
        left = [cell for cell in left if cell.id not in done]


def _one_process(cells: Sequence[Cell]) -> Iterator[Loaded | Result]:
    """What one child sends, until it is done, asks for a new child, or dies."""
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a fork
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, list(cells)), daemon=True)
    process.start()
    there.close()
    waiting = [cell.id for cell in cells]
    try:
        while waiting:
            message = here.recv()
            if message is None:  # a failure: the child wants no more
                waiting = []
                continue
            if isinstance(message, Result):
                waiting.remove(message.cell)
            yield message
    except EOFError:
        process.join()
        first, waiting = waiting[0], []
        killed = process.exitcode == -signal.SIGKILL
        how = (
            "was killed, as the host does when its memory runs out"
            if killed
            else f"died with exit code {process.exitcode}"
        )
        yield Result(first, "failed", f"The measuring process {how}.")
    finally:
        if waiting:  # the run was stopped
            process.terminate()
        process.join()


def _child(connection: Connection, cells: list[Cell]) -> None:
    """Load the model of the cells, measure each, send `Loaded` and `Result`s; None where the rest needs a new child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    end_with_parent()  # a child that went on measuring would slow down and crowd the run that resumes
    os.dup2(2, 1)  # stdout belongs to the parent's table
    with attention.kernel_order(cells[0].model.runtime.kernel_order):
        _measure_all(connection, cells)


def _measure_all(connection: Connection, cells: list[Cell]) -> None:
    """`_child` with its kernels chosen."""
    choice, devices = cells[0].model, cells[0].model.runtime.devices()
    try:
        rates = measure_rates(devices[0], getattr(torch, choice.runtime.dtype))
        PeakMemory(devices).start()
        model = choice.method.load(choice.preset, choice.runtime)
    except Exception as error:
        for cell in cells:
            connection.send(_failure(cell, error, devices))
        return
    connection.send(Loaded(model.fairness, model.max_context))
    lost: dict[str, int] = {}  # task -> shortest length that ran out of memory
    for cell in cells:
        shortest = lost.get(cell.task.name)
        if shortest is not None and cell.length is not None and cell.length > shortest:
            connection.send(_not_tried(cell, shortest))
            continue
        result = _measure(cell, model, rates)
        if result.status == "oom" and cell.length is not None:
            lost[cell.task.name] = cell.length
        connection.send(result)
        if result.traceback:
            connection.send(None)
            return
        gc.collect()
        if devices[0].type == "cuda":
            torch.cuda.empty_cache()


def _not_tried(cell: Cell, shortest: int) -> Result:
    """Out of memory without a try: after one length ran out, every longer one would fail slowly."""
    error = f"not tried: {shortest} tokens ran out of memory"
    return Result(cell.id, "oom", error, perf=Measurement(status="oom", error=error))


def _measure(cell: Cell, model: LongContextModel, rates: Rates) -> Result:
    """A cell goes wrong alone, and the sweep goes on: whatever happens is its result."""
    task, length = cell.task.task, cell.length
    assert isinstance(task, MeasuredTask)
    assert length is not None
    try:
        instance = task.instance(model.tokenizer, length, cell.seed)
        found = task.measure(model, instance, rates)
    except Exception as error:
        return _failure(cell, error, model.devices)
    perf = found.perf.model_copy(update={"rates": asdict(rates)})
    return Result(cell.id, perf.status, perf.error, perf=perf, metrics=found.metrics)


def _failure(cell: Cell, error: Exception, devices: Sequence[torch.device]) -> Result:
    """What an exception means for a cell: bad input, no memory left, or a bug, which keeps its traceback."""
    if isinstance(error, UserError):
        return Result(cell.id, "failed", str(error), bad_input=True)
    if isinstance(error, NotFiniteError):
        return Result(cell.id, "failed", str(error))
    if is_out_of_memory(error):
        return Result(cell.id, "oom", first_line(error), perf=out_of_memory(PeakMemory(devices), error))
    text = "".join(traceback.format_exception(error))
    return Result(cell.id, "failed", f"{type(error).__name__}: {first_line(error)}", traceback=text)
