"""Runs in rough surroundings: a reader that goes away, names that are not UTF-8, no home folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standins import write_preset

from evals.packages import version
from evals.records.read import read_records
from evals.run.environment import environment

pytestmark = pytest.mark.usefixtures("standins")


def arguments(tmp_path: Path, output: object) -> list[object]:
    preset = write_preset(tmp_path, "a")
    return ["--task", "sum", "--model", preset, "--random-weights", "--device", "cpu", "--no-perf", "--output", output]


def test_a_run_whose_reader_goes_away_is_finished_quietly(start: Callable[..., Any], tmp_path: Path) -> None:
    process = start(*arguments(tmp_path, tmp_path / "run"))
    first = process.stderr.readline()
    process.stdout.close()
    process.stderr.close()
    assert "1 cell into" in first
    assert process.wait(timeout=120) == 0
    assert len(list(read_records(tmp_path / "run"))) == 6
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_an_output_name_that_is_not_utf8(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")
    result = command(*arguments(tmp_path, folder))
    assert result.code == 0
    assert result.last["failed"] == 0
    assert len(list(read_records(Path(folder)))) == 6
    json.loads((Path(folder) / "run.json").read_bytes().decode("utf-8"))
    assert command(*arguments(tmp_path, folder)).code == 0


def test_a_run_without_a_home_folder(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert command(*arguments(tmp_path, tmp_path / "run")).code == 0


@pytest.mark.parametrize("package", ["kvpress", "llmlingua", "bm25s", "sentence-transformers", "peft"])
def test_a_run_records_the_version_of_the_package_behind_a_method(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.run.environment.version", lambda name: "1.2" if name == package else version(name))
    assert environment("cpu")["packages"][package] == "1.2"
