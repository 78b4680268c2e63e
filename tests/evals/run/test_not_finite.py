"""A model whose numbers are not numbers has no score: its samples fail with a reason, and so does the cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from standins import Sum, Toy, ToySession, write_preset

from evals.methods.base import NotFiniteError, Query
from evals.records.read import read_records, read_run
from evals.report.load import load

pytestmark = pytest.mark.usefixtures("standins")


def run(command: Callable[..., Any], tmp_path: Path) -> Any:
    preset = write_preset(tmp_path, "a")
    return command(
        "--task", "sum", "--model", preset, "--random-weights", "--device", "cpu", "--output", tmp_path / "run"
    )


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_log_probabilities_that_are_not_finite_fail_the_sample(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(ToySession, "score", lambda self, query, ids: torch.full((len(ids),), value))
    result = run(command, tmp_path)
    assert result.code == 1
    [cell] = result.last["cells"]
    assert (cell["status"], cell["n"]) == ("failed", 3)
    assert f"3 of 6 samples have no score: a log-probability is {value}" in cell["error"]
    failed = [record for record in read_records(tmp_path / "run") if record.status == "failed"]
    assert len(failed) == 3
    assert all(record.metrics == {} for record in failed)  # type: ignore[union-attr]
    assert run(command, tmp_path).last["cells"][0]["status"] == "failed"  # and it stays so


def test_an_answer_of_a_model_whose_logits_are_nan_is_not_scored(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySession, "score", lambda self, query, ids: torch.full((len(ids),), math.nan))
    monkeypatch.setattr(ToySession, "generate", lambda self, query, n, stop=None, on_token=None: [0] * n)
    monkeypatch.setattr("evals.run.left.is_complete", lambda *_: False)
    preset = write_preset(tmp_path, "a")
    result = command(
        "--task",
        "sum",
        "--model",
        preset,
        "--random-weights",
        "--device",
        "cpu",
        "--no-perf",
        "--output",
        tmp_path / "run",
    )
    assert "6 of 6 samples have no score" in result.last["cells"][0]["error"]


def test_a_metric_that_is_not_finite_fails_the_sample(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sum, "evaluate", lambda *_: {"exact": math.inf})
    result = run(command, tmp_path)
    assert result.last["cells"][0]["status"] == "failed"
    assert "the metric exact is inf" in result.last["cells"][0]["error"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_recorded_with_nan_as_ok_is_read_as_failed(command: Callable[..., Any], tmp_path: Path) -> None:
    assert run(command, tmp_path).code == 0
    file = tmp_path / "run" / "samples.jsonl"
    lines = [line.partition(',"crc"')[0] + "}" for line in file.read_text(encoding="utf-8").splitlines()]
    assert '"exact":1.0' in lines[0] or '"exact":0.0' in lines[0]
    lines[0] = lines[0].replace('"exact":1.0', '"exact":NaN').replace('"exact":0.0', '"exact":NaN')
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    loaded = load(tmp_path / "run")
    [cell] = read_run(tmp_path / "run").cells
    assert len(loaded.scored(cell)) == 5


@pytest.mark.parametrize("size", [1, 4])
def test_logits_that_are_not_finite_fail_their_sample_alone(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    generate = ToySession.generate

    def sometimes(self: ToySession, query: Query, *arguments: Any, **options: Any) -> list[int]:
        if self._ids[1] % 2:
            raise NotFiniteError("The logits are NaN: try --dtype float32.")
        return generate(self, query, *arguments, **options)

    monkeypatch.setattr(ToySession, "generate", sometimes)
    monkeypatch.setattr(Toy, "generate_batch", lambda self, asked: [r.session.generate(r.query, 3) for r in asked])
    preset = write_preset(tmp_path, "a")
    settings = ("--set", "questions=1", "contexts=4", "--no-perf", "--batch-size", size, "--random-weights")
    result = command("--task", "sum", "--model", preset, "--length", "64", *settings, "--output", tmp_path / "run")
    (cell,) = result.last["cells"]
    assert (result.code, cell["status"]) == (1, "failed")
    assert "2 of 4 samples have no score: The logits are NaN" in cell["error"]
    assert "Traceback" not in result.err
