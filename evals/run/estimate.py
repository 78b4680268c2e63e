"""How long cells will take: the work that formulas give over what a device does, corrected by a run that was measured.

Every number is an estimate, and what it rests on is a sentence of `Estimate.assumes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.records.models import SampleRecord
from evals.records.read import read_records, read_run
from evals.records.seconds import cold_seconds, sample_seconds
from evals.run.devices import BUS_BYTES, REFERENCE, Device, this_device
from evals.run.grid import Cell
from evals.run.packing import Job, wall_seconds
from evals.run.spec import RunSpec
from evals.run.work import Work, expected_work

READ_SHARE, STEP_SHARE = 0.4, 0.6
"""Shares of the peaks that reading a prompt and generating a token reach (7B models on one H100: 0.3 to 0.6)."""
STEP_S = 0.004
"""Seconds that a generated token takes at least: launching kernels."""
LOAD_BYTES, LOAD_S = 1e9, 10.0
"""Reading weights: bytes a second, and what every load takes besides."""
MACHINES = (1, 2, 4, 8, 16, 32, 64, 80)
"""Numbers of devices that a plan is made for."""


@dataclass(frozen=True)
class Estimate:
    """What each cell takes on `device` in `dtype`.

    works: of each cell, by formulas. seconds: of each cell. load_s: of each cell's model, once on every device that
    runs it. gpus: over which each cell's model is spread.

    factors: measured over estimated seconds of each model in an earlier run, by which `seconds` are multiplied.
    """

    device: Device
    dtype: str
    works: list[Work]
    seconds: list[float]
    load_s: list[float]
    models: list[str]
    gpus: list[int]
    factors: Mapping[str, float] = field(default_factory=dict)
    assumes: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> list[Job]:
        """The cells as jobs for devices."""
        return list(map(Job, self.seconds, self.models, self.load_s, self.gpus))

    @property
    def hours(self) -> float:
        """Of all devices that the cells take, without loading."""
        return sum(seconds * gpus for seconds, gpus in zip(self.seconds, self.gpus, strict=True)) / 3600

    def walls(self) -> dict[int, float]:
        """Wall seconds by number of devices, from as many as the largest model needs; numbers that do not help are left
        out.
        """
        found: dict[int, float] = {}
        least = max(self.gpus, default=1)
        for machines in (least, *(count for count in MACHINES if count > least)):
            wall = wall_seconds(self.jobs, machines)
            if not found or wall <= 0.99 * min(found.values()):
                found[machines] = wall
        return found


def estimate(
    cells: Sequence[Cell], spec: RunSpec, device: Device, dtype: str, earlier: Sequence[Path] = ()
) -> Estimate:
    """The time of each cell on a device that does nothing else. earlier: run folders that correct the formulas.

    Raises UserError where one of them is no run.
    """
    works = expected_work(cells, spec, dtype)
    factors = measured_factors(earlier)
    raw = [_seconds(work, device, dtype) for work in works]
    models = [cell.model.name for cell in cells]
    return Estimate(
        device=device,
        dtype=dtype,
        works=works,
        seconds=[seconds * factors.get(model, 1.0) for seconds, model in zip(raw, models, strict=True)],
        load_s=[LOAD_S + work.weight_bytes / LOAD_BYTES for work in works],
        models=models,
        gpus=[cell.model.preset.gpus for cell in cells],
        factors={model: factors[model] for model in dict.fromkeys(models) if model in factors},
        assumes=_assumptions(works, device, dtype, earlier, factors, models),
    )


def planned_gpu(spec: RunSpec) -> Device:
    """The GPU that a plan counts for: this machine's, else REFERENCE."""
    return this_device("cuda") if spec.device == "cuda" else REFERENCE


def measured_factors(folders: Sequence[Path]) -> dict[str, float]:
    """Measured over estimated seconds of each model of some runs, over its complete cells that were planned.

    Raises UserError where a folder holds no run.
    """
    sums: dict[str, list[float]] = {}
    for folder in folders:
        meta, measured = read_run(folder), _measured(folder)
        before = meta.plan.get("factors", {})
        for cell, state in meta.cells.items():
            if state.status == "ok" and state.planned_s and measured.get(cell):
                total = sums.setdefault(state.model, [0.0, 0.0])
                total[0] += measured[cell]
                total[1] += state.planned_s / before.get(state.model, 1.0)
    return {model: spent / planned for model, (spent, planned) in sums.items()}


def _measured(folder: Path) -> dict[str, float]:
    """Seconds of the records of each cell."""
    found: dict[str, float] = {}
    for record in read_records(folder):
        seconds = sample_seconds(record) if isinstance(record, SampleRecord) else cold_seconds(record)
        found[record.cell] = found.get(record.cell, 0.0) + seconds
    return found


def _seconds(work: Work, device: Device, dtype: str) -> float:
    step = max(work.step_bytes / (device.copy_bytes * STEP_SHARE), STEP_S)
    return work.read_flops / (device.rate(dtype) * READ_SHARE) + work.steps * (step + work.bus_bytes / BUS_BYTES)


def _assumptions(
    works: Sequence[Work],
    device: Device,
    dtype: str,
    earlier: Sequence[Path],
    factors: Mapping[str, float],
    models: Sequence[str],
) -> list[str]:
    found = [
        f"{device.name} in {dtype}: {READ_SHARE:.0%} of {device.rate(dtype) / 1e12:.3g} TFLOP/s while reading, "
        f"{STEP_SHARE:.0%} of {device.copy_bytes / 1e12:.3g} TB/s and at least {1000 * STEP_S:g} ms for a new token.",
        "Every answer is as long as its budget, every prompt as long as --length (else the model's window), and no "
        "questions share a read; scoring, downloads and the report are left out.",
        f"Each device loads each of its models once: {LOAD_S:g} s and {LOAD_BYTES / 1e9:g} GB/s.",
    ]
    for model in dict.fromkeys(models):
        if model in factors:
            found.append(f"{model}: times {factors[model]:.3g}, as measured in {', '.join(map(str, earlier))}.")
    return [*found, *dict.fromkeys(f"{sentence}." for work in works for sentence in work.assumed)]
