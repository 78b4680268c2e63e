"""The benchmark of the driver runs what a sweep runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_scripts import FOLDER, load

from evals.records.read import read_records, read_run


def test_invented_cells_are_run_and_found_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script = load("driver_throughput")
    monkeypatch.setattr(script, "MODELS", ("full", "truncated"))
    found = script.engine(tmp_path, cells=30, samples=60)
    assert found["records"] == 60
    assert len({(record.cell, record.sample) for record in read_records(tmp_path)}) == 60  # type: ignore[union-attr]
    assert [state.status for state in read_run(tmp_path).cells.values()] == ["ok"] * 30
    assert script.engine(tmp_path, cells=30, samples=60)["records"] == 0
