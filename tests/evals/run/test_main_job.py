"""The main job, end to end through the command line, on a tiny random Llama and the text that Python brings."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.records.read import read_records

MODELS = ("full", "truncated")


@pytest.fixture(scope="module")
def grid(tiny_presets: Callable[..., Path]) -> list[str]:
    presets = ",".join(str(tiny_presets(method)) for method in MODELS)
    return ["--task", "needle,perplexity", "--model", presets, "--length", "512,1k", "--limit", "2"]


def test_accuracy_memory_and_latency_in_one_table(command: Callable[..., Any], grid: list[str], tmp_path: Path) -> None:
    result = command(*grid, "--device", "cpu", "--output", tmp_path / "run")
    assert result.code == 0, result.err
    cells = result.last["cells"]
    assert [(c["model"], c["task"], c["length"]) for c in cells] == [
        (f"{model}-tiny", task, length)
        for model in MODELS
        for task in ("needle", "perplexity")
        for length in (512, 1024)
    ]
    for cell in cells:
        assert cell["status"] == "ok"
        assert cell["n"] >= 2
        assert cell["ttft_s"] > 0
        assert cell["tpot_ms"] > 0
        assert cell["peak_gib"] > 0
        assert cell["state_gib"] > 0
        assert cell["metric"] in cell["metrics"]
        assert all(math.isfinite(value) for value in cell["metrics"].values())
    assert [c["beyond_window"] for c in cells if c["model"] == "full-tiny"] == [False, True, False, True]
    rows = list(csv.DictReader((tmp_path / "run" / "summary.csv").open(encoding="utf-8")))
    assert [row["model"] for row in rows] == [cell["model"] for cell in cells]
    for name in ("summary.md", "summary.parquet", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert list((tmp_path / "run" / "plots").glob("*.svg"))


def test_a_reused_read_answers_as_a_fresh_one(command: Callable[..., Any], grid: list[str], tmp_path: Path) -> None:
    runs = [
        command(*grid, "--device", "cpu", "--no-perf", "--output", tmp_path / name, *more).last["cells"]
        for name, more in (("reuse", ()), ("fresh", ("--no-reuse",)))
    ]
    assert [cell["metrics"] for cell in runs[0]] == [cell["metrics"] for cell in runs[1]]


def test_a_batch_answers_as_one_request_at_a_time(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    base = ["--task", "needle", "--model", tiny_presets("full"), "--length", "512", "--limit", 5, "--no-perf"]
    for name, size in (("one", 1), ("three", 3)):
        assert command(*base, "--batch-size", size, "--output", tmp_path / name).code == 0
    texts = [{record.sample: record.output for record in read_records(tmp_path / name)} for name in ("one", "three")]
    assert len(texts[0]) == 5
    assert texts[0] == texts[1]


def test_random_weights_need_a_shape_only(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    preset = tiny_presets("full", "shape-only", weights={"source": "hub:nobody/nothing"})
    arguments = ["--task", "needle", "--model", preset, "--length", "512", "--limit", 1, "--offline"]
    result = command(*arguments, "--random-weights", "--no-perf", "--output", tmp_path / "run")
    assert result.code == 0, result.err
    refused = command(*arguments, "--output", tmp_path / "other")
    assert refused.code == 2
    assert "hf download nobody/nothing" in refused.err
