"""`--config`: a run in a file, what the command line says above it, and the file that every run leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins import write_preset

RANDOM = "--random-weights"
pytestmark = pytest.mark.usefixtures("standins")


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def sizes(result: Any) -> list[tuple[str, int, int]]:
    assert result.code == 0, result.err
    return [(cell["model"], cell["length"], cell["n"]) for cell in result.last["cells"]]


def test_a_file_says_what_a_command_line_can(command: Callable[..., Any], tmp_path: Path) -> None:
    model = write_preset(tmp_path, "a")
    path = write(
        tmp_path,
        f"""
        # a comment
        task: sum
        model: [{model}]
        length: [64, 1k]   # numbers and texts
        limit: 3
        seed: 5
        batch-size: 2
        offline: true
        random-weights: true
        perf: false
        set: {{questions: 2, model.factor: 3}}
        """,
    )
    assert sizes(command("--config", path, "--dry-run")) == [("a", 64, 3), ("a", 1024, 3)]
    assert command("--config", path, "--output", tmp_path / "run").code == 0
    spec = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert (spec["seed"], spec["batch-size"], spec["offline"], spec["perf"]) == (5, 2, True, False)
    assert spec["set"] == {"questions": 2, "model.factor": 3}


def test_the_command_line_stands_above_the_file(command: Callable[..., Any], tmp_path: Path) -> None:
    model = write_preset(tmp_path, "a")
    path = write(
        tmp_path,
        f"task: sum\nmodel: {model}\nlength: 2k\nlimit: 3\nrandom-weights: true\nset: {{questions: 1, pause: 0.0}}\n",
    )
    result = command(
        "--config", path, "--length", 64, "--limit", 2, "--set", "questions=2", "--output", tmp_path / "run"
    )
    assert sizes(result) == [("a", 64, 2)]
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["set"] == {"questions": 2, "pause": 0.0}


def test_a_run_is_repeated_by_its_own_file_from_anywhere(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_preset(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    first = command(
        "--task", "sum", "--model", "a.yaml", "--length", 64, "--set", "contexts=2", "--output", "run", RANDOM
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    second = command("--config", tmp_path / "run" / "run.yaml", "--output", "again")
    assert [cell["cell"] for cell in second.last["cells"]] == [cell["cell"] for cell in first.last["cells"]]
    assert (elsewhere / "again" / "run.yaml").read_text() == (tmp_path / "run" / "run.yaml").read_text()


MISTAKES = {
    "unknown key": ("task: sum\nlenght: 64", "There is no setting lenght of the run file", "did you mean length"),
    "underscore": ("batch_size: 2", "There is no setting batch_size", "did you mean batch-size?"),
    "wrong type": ("limit: many", "The setting limit of the run file", "expected a whole number, found 'many'"),
    "truth as number": ("limit: true", "The setting limit", "expected a whole number, found true"),
    "out of range": ("limit: 0", "The setting limit", "expected 1 or more, found 0"),
    "wrong choice": ("dtype: int4", "The setting dtype", "found 'int4'"),
    "no truth": ("offline: 1", "The setting offline", "expected true or false, found 1"),
    "settings in a list": ("set: [a=1]", "The setting set", "expected names with values"),
    "a mapping where a name is due": ("task: {sum: 1}", "The setting task", "expected text"),
    "twice": ("task: sum\ntask: sum", "cannot be read", "the key 'task' stands there twice"),
    "no YAML": ("task: [sum", "cannot be read", "it is not valid YAML"),
    "a list": ("- task", "holds no options", "task: needle"),
    "empty": ("# nothing", "holds no options", "task: needle"),
    "not about a run": ("list: true", "There is no setting list", "the run file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_one_sentence(command: Callable[..., Any], tmp_path: Path, mistake: str) -> None:
    text, *sentences = MISTAKES[mistake]
    result = command("--config", write(tmp_path, text))
    assert result.code == 2
    assert all(sentence in result.err for sentence in sentences), result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_file_that_is_not_there_is_one_sentence(command: Callable[..., Any], tmp_path: Path) -> None:
    result = command("--config", tmp_path / "nowhere.yaml")
    assert (result.code, "There is no run file" in result.err) == (2, True)
