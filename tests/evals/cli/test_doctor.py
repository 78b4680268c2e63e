"""`sharedllm-eval doctor` finds what a run needs, and names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.methods.decoding.session import CachedSession


def checks(result: Any) -> dict[str, tuple[str, str]]:
    """Verdict and text of each check."""
    return {found["check"]: (found["verdict"], found["text"]) for found in result.last["checks"]}


def test_a_sound_model_passes_every_check(command: Callable[..., Any], tiny_presets: Callable[..., Path]) -> None:
    result = command("doctor", "--model", tiny_presets("full"), "--device", "cpu")
    found = checks(result)
    assert result.code == 0, result.err
    assert list(found) == ["versions", "device", "memory", "disk", "cache", "files", "model", "prompt", "decoding"]
    assert found["model"][0] == found["prompt"][0] == found["decoding"][0] == "ok"
    assert "1 BOS, no chat template" in found["prompt"][1]
    assert "[256, " in found["prompt"][1]


def test_missing_weights_are_an_error_with_advice(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    preset = tiny_presets("full", "nowhere", weights={"source": str(tmp_path / "nothing")})
    result = command("doctor", "--model", preset, "--device", "cpu")
    assert result.code == 1
    assert checks(result)["model"] == ("error", checks(result)["model"][1])
    assert "nothing" in checks(result)["model"][1]


def test_a_cache_that_forgets_is_found(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    after = CachedSession._after

    def wrong(self: CachedSession, token: int, left: int) -> torch.Tensor:
        return after(self, (token + 1) % 256, left)

    monkeypatch.setattr(CachedSession, "_after", wrong)
    result = command("doctor", "--model", tiny_presets("full"), "--device", "cpu")
    assert result.code == 1
    assert checks(result)["decoding"][0] == "error"


def test_an_unusable_cache_folder_is_a_warning(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = command("doctor", "--model", tiny_presets("full"), "--device", "cpu")
    verdict, text = checks(result)["cache"]
    assert verdict == "warning"
    assert "XDG_CACHE_HOME" in text


def test_an_unknown_model_is_bad_input(command: Callable[..., Any]) -> None:
    result = command("doctor", "--model", "full-136m", "--device", "cpu")
    assert result.code == 2
    assert "did you mean full-135m" in result.err
    assert json.dumps(result.out) == '""'
