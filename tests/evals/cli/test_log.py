"""How much a run says: `--quiet`, `--verbose`, `--log-file`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
from standins import write_preset


def run(command: Callable[..., Any], folder: Path, *options: object) -> Any:
    arguments = (
        "--task",
        "sum",
        "--model",
        write_preset(folder, "a"),
        "--length",
        64,
        "--limit",
        2,
        "--random-weights",
    )
    return command(*arguments, "--output", folder / "run", *options)


@pytest.mark.usefixtures("standins")
def test_quiet_says_nothing_of_a_run_that_goes_well(command: Callable[..., Any], tmp_path: Path) -> None:
    result = run(command, tmp_path, "--quiet")
    assert (result.code, result.err) == (0, "")
    assert result.last["failed"] == 0


@pytest.mark.usefixtures("standins")
def test_quiet_says_what_goes_wrong(command: Callable[..., Any], tmp_path: Path) -> None:
    result = run(command, tmp_path, "-q", "--set", "trouble=bug")
    assert result.code == 1
    assert "a bug in the task" in result.err
    assert "Loading" not in result.err


@pytest.mark.usefixtures("standins")
def test_verbose_shows_every_sample(command: Callable[..., Any], tmp_path: Path) -> None:
    result = run(command, tmp_path, "--verbose")
    assert "a sum 64 000: exact" in result.err
    assert "a sum 64 001: nll" in result.err


@pytest.mark.usefixtures("standins")
def test_a_log_file_takes_everything_and_grows(command: Callable[..., Any], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    first = run(command, tmp_path, "--quiet", "--log-file", log)
    assert first.code == 0
    text = log.read_text()
    assert "INFO Loading a" in text
    assert "DEBUG a sum 64 000: exact" in text
    run(command, tmp_path, "--log-file", log)
    assert log.read_text().startswith(text)
    assert len(log.read_text()) > len(text)


@pytest.mark.usefixtures("standins")
def test_what_excludes_each_other_and_a_log_file_nowhere_are_one_sentence(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    both = run(command, tmp_path, "-q", "-v")
    assert (both.code, "exclude each other" in both.err) == (2, True)
    nowhere = run(command, tmp_path, "--log-file", tmp_path / "no" / "log.txt")
    assert (nowhere.code, "--log-file" in nowhere.err) == (2, True)


def test_a_shell_completes_options_tasks_and_models() -> None:
    code = "from evals.cli.evaluate import main\nmain()"
    for words, expected in (
        ("sharedllm-eval --con", "--config"),
        ("sharedllm-eval --task need", "needle"),
        ("sharedllm-eval --model full-135m,sharedllm-13", "full-135m,sharedllm-135m"),
    ):
        environment = {
            **os.environ,
            "PYTHONPATH": str(folders.ROOT),
            "_SHAREDLLM_EVAL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert expected in done.stdout.split(), done.stderr
