"""A run folder as Python objects: what was asked, what was recorded, and what could not be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals import registry
from evals.errors import UserError
from evals.records.store import SAMPLES_FILE, read_records, read_run
from evals.settings import validate
from evals.tasks.base import BaseTask
from evals.tasks.common.source import DataSource

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run, or several merged.

    record: `run.json`. samples: of each cell the newest record of every sample, in the order first seen.
    perf: of each cell the newest cold measurement. notes: sentences about lines that were left out.
    """

    path: Path
    record: Record
    samples: dict[str, list[Record]]
    perf: dict[str, Record]
    notes: list[str] = field(default_factory=list)

    @property
    def cells(self) -> dict[str, Record]:
        return self.record["cells"]

    @property
    def models(self) -> dict[str, Record]:
        return self.record["models"]

    def fairness(self, model: str) -> Record:
        """What a model was allowed to use; empty for a model that has no record."""
        return self.models.get(model, {}).get("budget", {})

    def scored(self, cell: str) -> list[Record]:
        """The samples of a cell that have metrics."""
        return [s for s in self.samples.get(cell, []) if s["status"] == "ok"]


def load(path: Path) -> Run:
    """Read a run folder. Raises UserError where it is none, or where nothing was recorded yet."""
    run = _collect(path, read_run(path), read_records(path), _torn(path / SAMPLES_FILE))
    if not run.samples and not run.perf:
        raise UserError(f"The run {path} is empty: nothing was measured yet, so start it again to go on with it.")
    return run


def merge(runs: Sequence[Run], path: Path) -> Run:
    """Several runs as one. A model name that stands for different weights or settings gets its run's folder
    name.
    """
    identities: dict[str, set[str]] = {}
    for run in runs:
        for name, model in run.models.items():
            identities.setdefault(name, set()).add(_identity(model))
    merged = Run(path, {**runs[0].record, "models": {}, "cells": {}, "merged": []}, {}, {}, [])
    for run in runs:
        names = {n: n if len(identities[n]) == 1 else f"{n} ({run.path.name})" for n in run.models}
        merged.models.update({names[n]: model for n, model in run.models.items()})
        merged.cells.update({i: {**c, "model": names.get(c["model"], c["model"])} for i, c in run.cells.items()})
        for cell, samples in run.samples.items():
            known = {s["sample"]: s for s in merged.samples.get(cell, [])}
            merged.samples[cell] = list({**known, **{s["sample"]: s for s in samples}}.values())
        merged.perf.update(run.perf)
        merged.notes.extend(run.notes)
        merged.record["merged"].append({"path": run.path.name, "environment": run.record.get("environment", {})})
    return merged


def task_of(cell: Record) -> BaseTask:
    """The task that a cell was scored with. Raises UserError where it is not installed or takes other
    settings now.
    """
    name, _, subset = cell["task"].partition(":")
    cls = registry.task(name)
    settings = validate(cls.settings_model, cell["settings"], f"the recorded task {cell['task']}")
    return cls(subset or None, settings, DataSource())


def _identity(model: Record) -> str:
    return str(model.get("identity") or json.dumps(model.get("preset"), sort_keys=True))


def _torn(file: Path) -> list[str]:
    """A note where the last line was cut short: the run was killed, or still goes on."""
    if not file.is_file() or not file.stat().st_size:
        return []
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return [] if stream.read() == b"\n" else [f"The last line of {file} was cut short and is left out."]


def _collect(path: Path, record: Record, rows: Iterable[Record], notes: list[str]) -> Run:
    samples: dict[str, dict[str, Record]] = {}
    perf: dict[str, Record] = {}
    for row in rows:
        if row["cell"] not in record["cells"]:
            notes.append(f"The cell {row['cell']} is not in run.json of {path} and is left out.")
        elif row["kind"] == "perf":
            perf[row["cell"]] = row
        elif row["kind"] == "sample":
            samples.setdefault(row["cell"], {})[row["sample"]] = row
    return Run(path, record, {c: list(s.values()) for c, s in samples.items()}, perf, list(dict.fromkeys(notes)))
