"""Settings that a load would refuse are refused in a plan, before any weight is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained_runs import train

REFUSED = {
    "longllama-3b last_context_length=99999": "last_context_length of longllama-3b is 99999, more than its window",
    "longllama-3b last_context_length=0": "expected 1 or more, found 0",
    "beacon-7b ratio=3": "The setting ratio=3 of beacon-7b does not divide its window",
    "cepe-7b window=99999": "CEPE's setting window is 99999, but its model has 4096 positions",
    "streamingllm-7b recent=99999": "first is 100003, more than the 4096 positions",
    "streamingllm-7b sinks=-1": "expected 0 or more, found -1",
    "yarn-7b rope=yarn factor=0.5": "factor",
    "kvpress-7b ratio=7": "expected less than 1, found 7",
    "kvpress-7b press=knorn": "knorm",
    "sharedllm-7b chunk_size=null": "chunk_size: ",
    "sharedllm-7b chunk_size=3": "chunk_size 3 cannot be halved",
    "sharedllm-7b attention=joint gpus=2": "joint attention runs on one GPU",
}


@pytest.fixture
def planned(command: Callable[..., Any]) -> Callable[..., str]:
    """Plans a run: what is said where it is refused, nothing where it is not."""

    def plan(model: object, *more: object) -> str:
        words = ["--task", "needle", "--model", model, "--length", 4096, "--limit", 1, "--dry-run"]
        result = command(*words, *more)
        assert result.code in (0, 2)
        return str(result.err) if result.code else ""

    return plan


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_do_not_fit_are_refused_without_weights(case: str, planned: Callable[..., str]) -> None:
    if case.startswith("kvpress"):
        pytest.importorskip("kvpress")
    model, *settings = case.split()
    assert planned(model, "--random-weights") == ""
    assert REFUSED[case] in planned(model, "--random-weights", "--set", *settings)


FOLDER = {
    "streaming_llm recent=99999": "more than the 768 positions of the base",
    "sharedllm lower_layers=4": "lower_layers is 4: the base model has 1 to 3 layers to share",
    "activation_beacon": "The config has no beacon_window",
}


@pytest.mark.parametrize("case", FOLDER)
def test_a_folder_without_a_preset_tells_its_shape_too(
    case: str, planned: Callable[..., str], tiny_llama: Path
) -> None:
    method, *settings = case.split()
    assert planned(tiny_llama, "--set", "method=streaming_llm", "recent=100", "chunk=100") == ""
    assert FOLDER[case] in planned(tiny_llama, "--set", f"method={method}", *settings)


def test_a_kernel_that_a_method_does_not_run_on_is_refused(planned: Callable[..., str]) -> None:
    assert "LongLLaMA's memory attention runs on sdpa" in planned("longllama-3b", "--attn", "eager")


@pytest.mark.parametrize(
    ("name", "method", "fits", "settings", "said"),
    [
        ("longllama", "longllama", "last_context_length=8", "last_context_length=9999", "more than its window of"),
        ("beacon", "activation_beacon", "ratio=2", "ratio=7", "ratio=7 of planned does not divide its window of"),
        ("cepe", "cepe", "window=64", "window=99999", "CEPE's setting window is 99999"),
    ],
)
def test_settings_that_do_not_fit_an_adapter_are_refused(
    name: str,
    method: str,
    fits: str,
    settings: str,
    said: str,
    planned: Callable[..., str],
    tiny_llama: Path,
    tiny_presets: Callable[..., Path],
    texts: Path,
    tmp_path: Path,
) -> None:
    train(name, tiny_llama, texts, tmp_path / "run", steps=1)
    preset = tiny_presets(method, "planned", adapter={"source": "nowhere"})
    adapter = ["--checkpoint", tmp_path / "run" / "adapter"]
    assert planned(preset, *adapter, "--set", fits) == ""
    assert said in planned(preset, *adapter, "--set", settings)
