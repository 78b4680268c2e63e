"""The benchmark of many samples writes what a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_scripts import load

from evals.records.read import read_lines


def test_what_is_appended_directly_is_what_the_store_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("many_samples")
    monkeypatch.setattr(script, "SINGLE", 3)
    monkeypatch.setattr(script, "BATCH", 10)
    monkeypatch.setattr(script, "THROUGH_STORE", 23)
    found = script.write(tmp_path, cells=4, samples=90)
    assert found["records_per_s_one_by_one"] > 0
    lines = list(read_lines(tmp_path))
    assert [line.damage for line in lines if line.damage] == []
    written = [(line.record.cell, line.record.sample) for line in lines if line.record]
    assert len(set(written)) == 90
    expected = [script.record(*place) for place in script.places(list(script.states(4)), 90)]
    assert [line.record for line in lines] == expected
    assert script.resume(tmp_path, cells=4, samples=90)["resume_s"] > 0
    monkeypatch.setattr("evals.report.plots.draw", lambda data, folder: [])
    assert script.report(tmp_path, cells=4, samples=90)["report_html_mb"] > 0
