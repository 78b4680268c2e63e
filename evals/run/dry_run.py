"""The dry run: what would be run, how many tokens, how much memory and time, without loading a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.run.estimate import Estimate, estimate, planned_gpu
from evals.run.grid import Cell
from evals.run.memory import expected_memory
from evals.run.spec import RunSpec
from evals.run.work import sample_count
from evals.tasks.settings.controls import readings


@dataclass(frozen=True)
class Planned:
    """One row of the plan. samples and tokens are None where nothing bounds them, memory where no config is.

    weight_bytes: of the base and of what the method adds to it. state_bytes: held for the context of a request, by the
    method's own formula; kv_bytes: by a dense KV cache of as many tokens. All bytes and seconds are for the device and
    dtype of the estimate.
    """

    cell: Cell
    samples: int | None
    tokens: int | None
    weight_bytes: int | None
    state_bytes: int | None
    kv_bytes: int | None
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The cells of a run, and the estimate of their times."""

    rows: list[Planned]
    time: Estimate


def planned(cells: Sequence[Cell], spec: RunSpec, earlier: Sequence[Path] = ()) -> Plan:
    """The plan of a run. earlier: run folders whose measured times correct the estimate."""
    choices = {cell.model.name: cell.model for cell in cells}
    memory = {name: expected_memory(choice) for name, choice in choices.items()}
    time = estimate(cells, spec, planned_gpu(spec), spec.dtype, earlier)
    time.assumes.extend(
        f"The {part} of {name} will be at {source} before the run: nothing is there now."
        for name, choice in choices.items()
        for part, source in choice.missing.items()
    )
    rows = []
    for cell, seconds, work in zip(cells, time.seconds, time.works, strict=True):
        expected, task, length = memory[cell.model.name], cell.task.task, cell.length
        samples = sample_count(task, spec.limit)
        tokens = samples * task.sample_tokens(length) * readings(task.settings) if samples and length else None
        weight = max(expected.weight_bytes, round(work.weight_bytes)) if expected else None
        kv = expected.kv_token_bytes * length if expected and length else None
        rows.append(Planned(cell, samples, tokens, weight, work.state_bytes, kv, seconds))
    return Plan(rows, time)
