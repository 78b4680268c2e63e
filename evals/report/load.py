"""A run folder as Python objects: what was asked, what was recorded, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals import registry
from evals.errors import UserError
from evals.records.json import Json, dumps
from evals.records.models import CellState, Control, ModelEntry, PerfRecord, RunMeta, SampleRecord, not_finite
from evals.records.read import SAMPLES_FILE, Line, is_torn, read_lines, read_run
from evals.tasks.base import BaseTask
from evals.tasks.common.source import DataSource
from sharedllm.validation import validate


@dataclass(frozen=True)
class Run:
    """One run, or several merged.

    meta: `run.json`. samples: of each cell the newest record of every sample, in the order first seen.
    perf: of each cell the newest cold measurement. notes: sentences about lines that were left out, of which
    `left_out` were complete lines: damaged, or of a cell that the run does not have.
    """

    path: Path
    meta: RunMeta
    samples: dict[str, list[SampleRecord]]
    perf: dict[str, PerfRecord]
    notes: list[str] = field(default_factory=list)
    left_out: int = 0

    @property
    def cells(self) -> dict[str, CellState]:
        """State of each cell by its id, in the order of the run."""
        return self.meta.cells

    @property
    def models(self) -> dict[str, ModelEntry]:
        """Preset, fairness record and identity of each model by its name."""
        return self.meta.models

    def fairness(self, model: str) -> Json:
        """What a model was allowed to use; empty for a model that was never loaded."""
        return self.models[model].fairness if model in self.models else {}

    def scored(self, cell: str, control: Control = "own") -> list[SampleRecord]:
        """The samples of a cell that have metrics, of the questions asked with that context (`--context`)."""
        return [s for s in self.samples.get(cell, []) if s.status == "ok" and s.control == control]


def load(path: Path) -> Run:
    """Read a run folder. Raises UserError where it is none, or where nothing was recorded yet."""
    run = _collect(path, read_run(path))
    if not run.samples and not run.perf:
        raise UserError(f"The run {path} is empty: nothing was measured yet, so start it again to go on with it.")
    return run


def merge(runs: Sequence[Run], path: Path) -> Run:
    """Several runs as one. A model name that stands for different weights or settings gets its run's folder name."""
    identities: dict[str, set[str]] = {}
    for run in runs:
        for name, model in run.models.items():
            identities.setdefault(name, set()).add(_identity(model))
    merged = Run(path, runs[0].meta.model_copy(update={"models": {}, "cells": {}, "merged": []}), {}, {})
    for run in runs:
        names = {n: n if len(identities[n]) == 1 else f"{n} ({run.path.name})" for n in run.models}
        merged.models.update({names[n]: model for n, model in run.models.items()})
        for cell, state in run.cells.items():
            merged.cells[cell] = state.model_copy(update={"model": names.get(state.model, state.model)})
        for cell, samples in run.samples.items():
            known = {s.sample: s for s in merged.samples.get(cell, [])}
            merged.samples[cell] = list({**known, **{s.sample: s for s in samples}}.values())
        merged.perf.update(run.perf)
        merged.notes.extend(run.notes)
        merged.meta.merged.append({"path": run.path.name, "environment": run.meta.environment})
    return merged


def task_of(cell: CellState) -> BaseTask:
    """The task that a cell was scored with. Raises UserError where it is not installed or takes other settings now."""
    name, _, subset = cell.task.partition(":")
    cls = registry.task(name)
    settings = validate(cls.settings_model, cell.settings, f"the recorded task {cell.task}")
    return cls(subset or None, settings, DataSource())


def _identity(model: ModelEntry) -> str:
    return model.identity or dumps(sorted(model.preset.items()))


def _collect(path: Path, meta: RunMeta) -> Run:
    samples: dict[str, dict[str, SampleRecord]] = {}
    perf: dict[str, PerfRecord] = {}
    damaged: list[Line] = []
    strange: list[str] = []
    for line in read_lines(path):
        record = line.record
        if record is None:
            damaged.append(line)
        elif record.cell not in meta.cells:
            strange.append(record.cell)
        elif isinstance(record, PerfRecord):
            perf[record.cell] = record
        else:
            samples.setdefault(record.cell, {})[record.sample] = _checked(record)
    notes = _missing(meta, samples)
    notes += [f"The cell {cell} is not in run.json of {path} and is left out." for cell in dict.fromkeys(strange)]
    kept = {c: list(s.values()) for c, s in samples.items()}
    return Run(path, meta, kept, perf, _damage(path, damaged) + notes, len(damaged) + len(strange))


def _checked(record: SampleRecord) -> SampleRecord:
    """A sample whose metrics are not all finite failed: runs recorded before 0.1.0 call it ok."""
    if record.status == "ok" and (fault := not_finite(record.metrics)):
        return record.model_copy(update={"status": "failed", "error": fault})
    return record


def _missing(meta: RunMeta, samples: Mapping[str, Mapping[str, SampleRecord]]) -> list[str]:
    """Notes about cells that lack records of a complete pass; such a cell is pending again."""
    notes = []
    for cell, state in meta.cells.items():
        found, expected = len(samples.get(cell, ())), state.samples or 0
        if state.status == "ok" and found < expected:
            state.status = "pending"
            lost = f"{expected - found} of {expected} samples of {state.model} {state.task}"
            verb = "is" if expected - found == 1 else "are"
            notes.append(f"{lost} {verb} missing: the command of this run measures what is missing.")
    return notes


def _damage(path: Path, damaged: Sequence[Line]) -> list[str]:
    """Notes about lines that could not be read."""
    file, notes = path / SAMPLES_FILE, []
    if is_torn(path):
        notes.append(f"The last line of {file} was cut short and is left out.")
    if damaged:
        what, again = f"{len(damaged)} damaged records are", "them"
        if len(damaged) == 1:
            what, again = "1 damaged record is", "it"
        lines = "; ".join(f"line {line.number}: {line.damage}" for line in damaged[:3]) + ("; ..." * (len(damaged) > 3))
        notes.append(f"{file}: {what} left out ({lines}); the command of this run measures {again} again.")
    return notes
