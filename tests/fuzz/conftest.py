"""Fixtures of the tests of bad training input."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from training_runs import Train, arguments

from sharedllm.training.cli import main


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sharedllm-train", *arguments(tiny_llama, texts / "words.txt", folder)])
        with pytest.raises(SystemExit) as exit_info:
            main()
    assert not exit_info.value.code
    return folder


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs sharedllm-train in this process: (exit code, stdout, last line of stderr)."""
    torch.set_num_threads(1)

    def run(*given: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sharedllm-train", *map(str, given)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        out, err = capfd.readouterr()
        return int(exit_info.value.code or 0), out, (err.splitlines() or [""])[-1]

    return run
