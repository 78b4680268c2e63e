"""Damaged runs heal: the same command measures again what is missing, and the records are those of a whole run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
from not_empty import not_empty
from standins import Sum, Toy, write_preset
from unshared import shared_records

from evals.records.read import read_records, read_run
from evals.report.load import load

pytestmark = pytest.mark.usefixtures("standins")


def arguments(tmp_path: Path, output: str, *more: object) -> tuple[object, ...]:
    preset = write_preset(tmp_path, "a")
    common = ("--task", "sum", "--model", preset, "--random-weights", "--device", "cpu")
    return (*common, "--output", tmp_path / output, *more)


def measured(folder: Path) -> list[str]:
    """Every record as text, without what no two runs share, sorted."""
    return sorted(shared_records(folder))


@pytest.mark.parametrize("seed", range(6))
def test_damage_anywhere_is_measured_again(command: Callable[..., Any], tmp_path: Path, seed: int) -> None:
    assert command(*arguments(tmp_path, "run")).code == 0
    whole = measured(tmp_path / "run")
    file = tmp_path / "run" / "samples.jsonl"
    content, source = bytearray(file.read_bytes()), random.Random(seed)
    start = source.randrange(len(content))
    for at in range(start, min(start + source.choice([1, 40, 3000]), len(content))):
        content[at] = 0 if seed % 2 else content[at] ^ (1 << source.randrange(7))
    file.write_bytes(content)
    assert load(tmp_path / "run").notes
    result = command(*arguments(tmp_path, "run"))
    assert result.code == 0
    assert measured(tmp_path / "run") == whole
    assert "delete" not in result.err
    assert load(tmp_path / "run").notes == []


def test_ok_in_run_json_is_not_believed_against_missing_records(command: Callable[..., Any], tmp_path: Path) -> None:
    assert command(*arguments(tmp_path, "run")).code == 0
    whole = measured(tmp_path / "run")
    file = tmp_path / "run" / "samples.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for gone in ([2], range(len(lines) - 1), [len(lines) - 1]):
        file.write_bytes(b"".join(line for i, line in enumerate(lines) if i not in gone))
        assert command(*arguments(tmp_path, "run")).code == 0
        assert measured(tmp_path / "run") == whole


def test_a_report_says_that_samples_are_missing(command: Callable[..., Any], tmp_path: Path) -> None:
    assert command(*arguments(tmp_path, "run")).code == 0
    file = tmp_path / "run" / "samples.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[2:]))
    run = load(tmp_path / "run")
    assert [state.status for state in run.cells.values()] == ["pending"]
    assert "2 of 6 samples of a sum are missing" in run.notes[0]


def test_records_after_a_stop_come_in_the_order_of_an_undisturbed_run(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chains of contexts: the first request of one context comes before the rest of the one that was cut short."""
    original = Sum.instances

    def chained(self: Sum, *args: Any) -> Any:
        found = list(original(self, *args))
        return iter([found[0], found[2], found[4], found[1], found[3], found[5]])

    monkeypatch.setattr(Sum, "instances", chained)
    command(*arguments(tmp_path, "whole", "--no-perf"))
    order = [record.sample for record in read_records(tmp_path / "whole")]  # type: ignore[union-attr]
    evaluate, calls = Sum.evaluate, []

    def interrupted(*parts: Any) -> dict[str, float]:
        calls.append(parts)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*parts)

    monkeypatch.setattr(Sum, "evaluate", interrupted)
    assert command(*arguments(tmp_path, "run", "--no-perf")).code == 130
    monkeypatch.setattr(Sum, "evaluate", evaluate)
    assert command(*arguments(tmp_path, "run", "--no-perf")).code == 0
    assert [record.sample for record in read_records(tmp_path / "run")] == order  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content", ["[]", "5", '"x"', "{}", '{"format": 1, "created": "x", "models": {}, "cells": {}}', "{", "\0" * 100,
                '{"format": 1, "created": "2026-01-01", "models": [], "cells": {}}',
                '{"format": 1, "created": "2026-01-01", "models": {}, "cells": {"c": 5}}'],
)  # fmt: skip
def test_a_run_json_of_another_shape_is_one_sentence(command: Callable[..., Any], tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(content, encoding="utf-8")
    result = command(*arguments(tmp_path, "run"))
    assert result.code == 2
    assert len(result.err.splitlines()) == 1, result.err
    assert "run.json" in result.err


KILLER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import standins
from evals import registry
registry.METHODS["toy"], registry.TASKS["sum"] = "standins:Toy", "standins:Sum"
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
read = standins.Toy.prefill
standins.Toy.prefill = lambda self, ids, prefix_ids=(): kill() if len(ids) > 100 else read(self, ids, prefix_ids)
from evals.cli.evaluate import main
main(sys.argv[1:])
"""


def test_a_cell_that_kills_the_process_twice_fails_and_the_others_go_on(tmp_path: Path) -> None:
    words = [str(word) for word in arguments(tmp_path, "run", "--length", "128,64")]
    code = KILLER.format(tests=str(folders.TESTS))
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=folders.ROOT, timeout=120
        )
        for _ in range(3)
    ]
    assert [run.returncode for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 1]
    cells = json.loads(runs[-1].stdout.splitlines()[-1])["cells"]
    assert [(cell["length"], cell["status"]) for cell in cells] == [(128, "failed"), (64, "ok")]
    assert "killed twice" in cells[0]["error"]


def test_a_stop_by_the_user_is_not_a_death(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "prefill", stop)
        for _ in range(3):
            result = command(*arguments(tmp_path, "run"))
            assert result.code == 130, result.err
            assert "the same command goes on from there" in result.err
    assert all(state.begun == 0 for state in not_empty(read_run(tmp_path / "run").cells.values()))
    assert command(*arguments(tmp_path, "run")).code == 0


def test_sigterm_ends_a_run_with_a_sentence(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Sum.evaluate

    def told_to_stop(*parts: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*parts)

    with monkeypatch.context() as patch:
        patch.setattr(Sum, "evaluate", told_to_stop)
        result = command(*arguments(tmp_path, "run"))
    assert result.code == 143
    assert "the same command goes on from there" in result.err
    assert "Traceback" not in result.err
    assert command(*arguments(tmp_path, "run")).code == 0


@pytest.mark.parametrize("after", [None, ValueError("it broke")], ids=["nothing", "an error"])
def test_sigterm_that_a_library_catches_ends_a_run_all_the_same(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: Exception | None
) -> None:
    evaluate = Sum.evaluate

    def deaf(*parts: Any) -> dict[str, float]:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        if after:
            raise after
        return evaluate(*parts)

    with monkeypatch.context() as patch:
        patch.setattr(Sum, "evaluate", deaf)
        result = command(*arguments(tmp_path, "run"))
    assert result.code == 143
    assert {state.status for state in not_empty(read_run(tmp_path / "run").cells.values())} == {"pending"}
    assert command(*arguments(tmp_path, "run")).code == 0
