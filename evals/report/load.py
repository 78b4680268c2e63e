"""A run folder as Python objects: what was asked, what was recorded, and what could not be read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

from evals.errors import UserError
from evals.records.json import Json, dumps
from evals.records.models import CellState, Control, ModelEntry, PerfRecord, RunMeta, SampleRecord
from evals.records.read import SAMPLES_FILE, Place, is_torn, read_places, read_run
from evals.report.digest import Digest
from evals.report.run_names import labels
from evals.report.stored import Lines, StoredSamples


@dataclass(frozen=True)
class Run:
    """One run, or several merged.

    meta: `run.json`. samples: of each cell the newest record of every sample, in the order first seen; they are read
    from the disk whenever they are asked for. perf: of each cell the newest cold measurement. notes: sentences about
    lines that were left out, of which `left_out` were complete lines: damaged, or of a cell that the run does not have.
    """

    path: Path
    meta: RunMeta
    samples: dict[str, Sequence[SampleRecord]]
    perf: dict[str, PerfRecord]
    notes: list[str] = field(default_factory=list)
    left_out: int = 0
    _digests: dict[str, Digest] = field(default_factory=dict)

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

    def method(self, model: str) -> str:
        """Name of a model's method; empty for a model that was never loaded, as for lack of memory."""
        return self.models[model].method if model in self.models else ""

    def digest(self, cell: str) -> Digest:
        """What the report needs of the samples of a cell. Raises UserError where its task is not installed."""
        if cell not in self._digests:
            self._digests[cell] = Digest.of(self.cells[cell], self.samples.get(cell, ()))
        return self._digests[cell]

    def scored(self, cell: str, control: Control = "own") -> list[SampleRecord]:
        """The samples of a cell that have metrics, of the questions asked with that context (`--context`)."""
        return [s for s in self.samples.get(cell, []) if s.status == "ok" and s.control == control]


def load(path: Path) -> Run:
    """Read a run folder. Raises UserError where it is none, or where nothing was recorded yet."""
    meta = read_run(path)
    measured = any(cell.status == "ok" for cell in meta.cells.values())  # as `run.json` says, before records are missed
    run = _collect(path, meta)
    if not run.samples and not run.perf:
        if measured:
            raise UserError(
                f"The answers of the run {path} are not in its {SAMPLES_FILE}: copy that from where the run was made."
            )
        raise UserError(f"The run {path} is empty: nothing was measured yet, so start it again to go on with it.")
    return run


def merge(runs: Sequence[Run], path: Path) -> Run:
    """Several runs as one. A model name that stands for different models, or that runs asked a task in different ways,
    gets its run's folder name.
    """
    unlike = _unlike(runs)
    label_of = dict(zip((run.path.resolve() for run in runs), labels([run.path for run in runs]), strict=True))
    merged = Run(path, runs[0].meta.model_copy(update={"models": {}, "cells": {}, "merged": []}), {}, {})
    for run in runs:
        label = label_of[run.path.resolve()]
        names = {n: f"{n} ({label})" if n in unlike else n for n in _names(run)}
        merged.models.update({names[n]: model for n, model in run.models.items()})
        for cell, state in run.cells.items():
            merged.cells[cell] = state.model_copy(update={"model": names[state.model]})
        for cell, samples in run.samples.items():
            merged.samples[cell] = _together(cell, merged.samples[cell], samples) if cell in merged.samples else samples
        merged.perf.update(run.perf)
        merged.notes.extend(run.notes)
        merged.meta.merged.append({"path": run.path.name, "environment": run.meta.environment})
    return merged


def _names(run: Run) -> Iterable[str]:
    """The models of a run, those too that were never loaded."""
    return dict.fromkeys([*run.models, *(state.model for state in run.cells.values())])


def _unlike(runs: Sequence[Run]) -> set[str]:
    """Names of models that are not the same in all runs, or were not asked the same: what a run itself refuses to hold
    under one name (`evals.run.difference`).
    """
    found: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for name, model in run.models.items():
            found.setdefault((name, ""), set()).add(_identity(model))
        for state in run.cells.values():
            way = [state.settings, state.task_version, state.data, run.meta.spec.get("seed")]
            found.setdefault((state.model, state.task), set()).add(dumps(way))
    return {name for (name, _), ways in found.items() if len(ways) > 1}


def _together(cell: str, first: Sequence[SampleRecord], second: Sequence[SampleRecord]) -> list[SampleRecord]:
    """The samples of a cell that two runs have. Raises UserError where they answered one of them differently."""
    known = {sample.sample: sample for sample in first}
    for sample in second:
        other = known.get(sample.sample, sample)
        if other.model_copy(update={"seconds": sample.seconds}) != sample:
            raise UserError(
                f"The cell {cell} is in two of the runs with different records (sample {sample.sample}): leave one of "
                "the runs out."
            )
        known[sample.sample] = sample
    return list(known.values())


def _identity(model: ModelEntry) -> str:
    return model.identity or dumps(sorted(model.preset.items()))


def _collect(path: Path, meta: RunMeta) -> Run:
    found: dict[str, dict[int, int]] = {}  # cell -> hash of a sample's id -> where its newest record is
    perf: dict[str, PerfRecord] = {}
    damaged: list[Place] = []
    strange: list[str] = []
    lines = Lines(path / SAMPLES_FILE)
    for place in read_places(path):
        head = place.head
        if head is None:
            damaged.append(place)
        elif head.cell not in meta.cells:
            strange.append(head.cell)
        elif head.sample is None:
            perf[head.cell] = lines.perf(place.offset)
        else:
            found.setdefault(head.cell, {})[hash(head.sample)] = place.offset
    samples = {cell: StoredSamples(lines, array("Q", offsets.values())) for cell, offsets in found.items()}
    notes = _missing(meta, samples)
    notes += [f"The cell {cell} is not in run.json of {path} and is left out." for cell in dict.fromkeys(strange)]
    return Run(path, meta, dict(samples), perf, _damage(path, damaged) + notes, len(damaged) + len(strange))


def _missing(meta: RunMeta, samples: Mapping[str, Sized]) -> list[str]:
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


def _damage(path: Path, damaged: Sequence[Place]) -> list[str]:
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
