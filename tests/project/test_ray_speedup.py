"""The benchmark of a sweep on several GPUs tells equal records from others, and runs nothing twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmark_scripts import FOLDER, load

from evals.records.lines import encode
from evals.records.models import SampleRecord
from evals.records.read import read_records


def test_records_are_compared_and_times_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script, invented = load("ray_speedup"), load("driver_throughput")
    monkeypatch.setattr(invented, "MODELS", ("full", "truncated"))
    made: list[tuple[list[str], str]] = []

    def run(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
        made.append((list(arguments), environment.get("CUDA_VISIBLE_DEVICES", "all")))
        invented.engine(folder, cells=6, samples=12)
        return 30.0 if folder.name == "one" else 12.0

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(sys, "argv", ["x", "--output", str(tmp_path), "--workers", "2", "--", "--task", "needle"])
    script.main()
    assert made == [(["--task", "needle"], "3"), (["--task", "needle", "--ray", "2"], "all")]
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] == {"one": 30.0, "all": 12.0}
    assert (found["speedup"], found["cells"], found["records"], found["different"]) == (2.5, 6, 12, 0)

    first, _, *rest = read_records(tmp_path / "all")
    assert isinstance(first, SampleRecord)
    first.metrics = {name: value + 1 for name, value in first.metrics.items()}
    (tmp_path / "all" / "samples.jsonl").write_bytes(b"".join(encode(record) for record in (first, *rest)))
    script.main()
    assert len(made) == 2, "both runs are there"
    assert json.loads(capsys.readouterr().out)["different"] == 2, "one has another score, one is missing"
