"""`--model FOLDER`: any model in a folder, without a preset, under any method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = ("--task", "needle", "--length", "512", "--limit", "1", "--set", "needles=1", "--device", "cpu", "--no-perf")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("full", ()),
        ("truncated", ("window=300",)),
        ("streaming_llm", ("sinks=2", "recent=60", "chunk=32")),
        ("yarn", ()),
        ("yarn", ("rope=linear", "factor=2")),
    ],
)
def test_a_folder_runs_under_every_training_free_method(
    command: Callable[..., Any], tiny_llama: Path, texts: Path, tmp_path: Path, method: str, settings: tuple[str, ...]
) -> None:
    chosen = () if method == "full" else (f"method={method}",)
    result = command(*RUN, *chosen, *settings, "--model", tiny_llama, "--data-dir", texts, "--output", tmp_path / "run")
    (cell,) = result.last["cells"]
    assert result.code == 0, result.err
    assert (cell["status"], cell["n"]) == ("ok", 1)
    assert cell["model"].startswith("tiny-llama")


def test_methods_over_one_folder_share_a_run(
    command: Callable[..., Any], tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    words = [*RUN, "--model", tiny_llama, "--data-dir", texts, "--output", tmp_path / "run"]
    found = [command(*words), command(*words, "--set", "method=truncated", "window=300")]
    names = [cell["model"] for result in found for cell in result.last["cells"]]
    assert [result.code for result in found] == [0, 0]
    assert names[1] == f"{names[0]}-truncated"
    assert set(names) <= set((tmp_path / "run" / "summary.md").read_text(encoding="utf-8").split())


def test_a_preset_keeps_its_method(command: Callable[..., Any]) -> None:
    result = command(*RUN, "method=truncated", "--model", "full-135m")
    assert result.code == 2
    assert "these presets have their method already" in result.err


def test_an_unknown_method_is_named(command: Callable[..., Any], tiny_llama: Path) -> None:
    result = command(*RUN, "method=truncatd", "--model", tiny_llama)
    assert result.code == 2
    assert "did you mean truncated" in result.err


@pytest.mark.parametrize(("name", "wanted"), [("snapkv", "kvpress press=snapkv"), ("ntk", "yarn rope=ntk")])
def test_a_press_or_rope_in_place_of_a_method_is_told_where_it_goes(
    command: Callable[..., Any], tiny_llama: Path, name: str, wanted: str
) -> None:
    result = command(*RUN, f"method={name}", "--model", tiny_llama)
    assert result.code == 2
    assert f"write --set method={wanted}." in result.err


def test_a_folder_that_is_not_there_is_one_sentence(command: Callable[..., Any], tmp_path: Path) -> None:
    result = command(*RUN, "--model", tmp_path / "nothing")
    assert result.code == 2
    assert "There is no folder" in result.err
    assert len(result.err.strip().splitlines()) == 1
