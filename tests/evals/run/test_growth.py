"""A run grows: what may join it, what is refused and why, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from standins import write_preset

pytestmark = pytest.mark.usefixtures("standins")


@pytest.fixture
def grow(command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs the task `sum` with models by name: grow("a,b", "--length", 64) -> Result."""

    def run(models: str, *options: object, **presets: Any) -> Any:
        paths = [str(write_preset(tmp_path, name, settings={"factor": ord(name)})) for name in models.split(",")]
        arguments = ("--task", "sum", "--model", ",".join(paths), "--random-weights", "--no-perf", "--limit", 2)
        return command(*arguments, "--output", tmp_path / "run", *options)

    return run


def cells(folder: Path) -> list[tuple[str, int, str]]:
    states = json.loads((folder / "run" / "run.json").read_text())["cells"].values()
    return [(state["model"], state["length"], state["status"]) for state in states]


def test_lengths_and_models_join_a_run_and_nothing_is_measured_twice(grow: Callable[..., Any], tmp_path: Path) -> None:
    assert grow("a", "--length", 128).code == 0
    first = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert grow("a", "--length", "64,128").code == 0
    result = grow("b", "--length", "64")
    assert result.code == 0
    assert (tmp_path / "run" / "samples.jsonl").read_bytes().startswith(first)
    assert len((tmp_path / "run" / "samples.jsonl").read_bytes().splitlines()) == 6
    assert cells(tmp_path) == [("a", 64, "ok"), ("a", 128, "ok"), ("b", 64, "ok")]
    assert "which holds 2 more cells" in result.err
    assert [cell["model"] for cell in result.last["cells"]] == ["b"]


def test_the_report_of_a_grown_run_shows_all_cells(grow: Callable[..., Any], tmp_path: Path) -> None:
    grow("a,b", "--length", 64)
    assert grow("a", "--length", 128).code == 0, "b is not named any more, and stays"
    summary = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert list(zip(summary["model"], summary["length"], strict=True)) == [("a", 64), ("a", 128), ("b", 64)]


def test_the_whole_grid_at_once_is_the_same_run(grow: Callable[..., Any], tmp_path: Path) -> None:
    grow("a", "--length", 64)
    grow("a,b", "--length", "64,128")
    grown = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run").rename(tmp_path / "grown")
    grow("a,b", "--length", "64,128")
    whole = json.loads((tmp_path / "run" / "run.json").read_text())
    assert grown["key"] == whole["key"]
    assert list(grown["cells"]) == list(whole["cells"])


DIFFERENCES = {
    "seed": (("--seed", 1), "seed was 0, now 1"),
    "dtype": (("--dtype", "bfloat16"), "dtype was float32, now bfloat16"),
    "kernel": (("--attn", "eager"), "attn was sdpa, now eager"),
    "a task's setting": (("--set", "contexts=2"), "contexts of sum was 3, now 2"),
    "a model's setting": (("--set", "factor=5"), "factor of a was 97, now 5"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_what_does_not_match_is_refused_by_its_first_difference(
    grow: Callable[..., Any], tmp_path: Path, difference: str
) -> None:
    options, words = DIFFERENCES[difference]
    grow("a", "--length", 64)
    before = (tmp_path / "run" / "run.json").read_bytes()
    result = grow("a", "--length", 128, *options)
    assert result.code == 2
    assert result.err.strip() == f"{tmp_path / 'run'} holds another run: {words}. Choose another --output."
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_other_data_are_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    arguments = ("--task", "sum", "--model", write_preset(tmp_path, "a"), "--random-weights", "--data-dir", texts)
    (texts / "a.txt").write_text("one")
    assert command(*arguments, "--length", 64, "--output", tmp_path / "run").code == 0
    (texts / "a.txt").write_text("two")
    result = command(*arguments, "--length", 128, "--output", tmp_path / "run")
    assert (result.code, "the data files of sum changed" in result.err) == (2, True)


def test_run_files_of_commands_with_cells_that_the_last_lacks_stay(grow: Callable[..., Any], tmp_path: Path) -> None:
    def lengths() -> dict[str, list[int]]:
        files = sorted((tmp_path / "run").glob("run*.yaml"))
        return {file.name: yaml.safe_load(file.read_text())["length"] for file in files}

    grow("a", "--length", 64)
    grow("a", "--length", "64,128")
    assert lengths() == {"run.yaml": [64, 128]}
    grow("a", "--length", 256)
    assert lengths() == {"run-1.yaml": [64, 128], "run.yaml": [256]}
    grow("a", "--length", "64,128,256")
    assert lengths() == {"run.yaml": [64, 128, 256]}
