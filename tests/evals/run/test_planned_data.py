"""The files that a task reads are looked for before anything is loaded, in a plan as in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals import registry
from evals.errors import UserError
from evals.run.checks.inputs import check, check_here
from evals.run.grid import plan
from evals.run.spec import RunSpec
from evals.tasks.common import hub

OFFICIAL = {"graphwalks": "official", "babilong": "official", "nolima": "official", "mrcr": "official"}
"""Tasks that read files only where they are asked to."""
ANSWERED = [name for name in registry.TASKS if not name.startswith("efficiency")]
GENERATED = ("ruler:cwe", "ruler:vt", "graphwalks:bfs", "mrcr:2needle", "longproc:path_traversal")


def refusal(command: Callable[..., Any], *words: object) -> str:
    result = command(*words, "--limit", 1, "--no-perf", "--device", "cpu")
    return str(result.err) if result.code == 2 else ""


@pytest.mark.parametrize("name", ANSWERED)
def test_an_empty_folder_is_refused_in_a_plan_as_in_a_run(
    name: str, command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    chosen = ["--set", f"source={OFFICIAL[name]}"] if name in OFFICIAL else []
    words = ["--task", name, "--model", tiny_presets("full"), "--length", 4096, "--data-dir", tmp_path, *chosen]
    said = refusal(command, *words, "--dry-run")
    assert str(tmp_path) in said
    assert refusal(command, *words, "--output", tmp_path / "run") == said


@pytest.mark.parametrize("name", GENERATED)
def test_a_task_that_reads_no_files_takes_any_folder(
    name: str, command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["--task", name, "--model", tiny_presets("full"), "--length", 16384, "--data-dir", tmp_path, "--dry-run"]
    assert refusal(command, *words) == ""


@pytest.mark.parametrize("name", ["graphwalks", "babilong:qa1"])
def test_files_of_one_length_are_looked_for_at_that_length(
    name: str, command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    from evals.tasks.graphwalks.rows import SHORT

    (tmp_path / SHORT).touch()
    (tmp_path / "qa1").mkdir()
    (tmp_path / "qa1" / "4k.json").touch()
    words = ["--task", name, "--model", tiny_presets("full"), "--data-dir", tmp_path, "--set", "source=official"]
    assert refusal(command, *words, "--length", 4096, "--dry-run") == ""
    said = refusal(command, *words, "--length", "4k,256k", "--dry-run")
    assert str(tmp_path) in said
    assert refusal(command, *words, "--length", "4k,256k", "--output", tmp_path / "run") == said


def test_a_plan_fetches_nothing_and_misses_no_file_that_a_run_would_fetch(
    tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo: str, filename: str, revision: str, offline: bool) -> None:
        asked.append(offline)

    monkeypatch.setattr(hub, "_download", download)
    names = ["longbench:qasper", "infinitebench:code_debug", "longbench-v2", "aa-lcr"]
    spec = RunSpec(tasks=names, models=[str(tiny_presets("full"))], lengths=[4096])
    check_here(plan(spec))
    assert asked == [True] * len(names)
    closed = plan(spec.model_copy(update={"offline": True}))
    for checks in (check_here, check):
        with pytest.raises(UserError, match="--offline forbids a download"):
            checks(closed)


def test_what_random_weights_cannot_be_made_for_is_refused_in_a_plan(
    command: Callable[..., Any], tiny_presets: Callable[..., Path]
) -> None:
    preset = tiny_presets("full", "shapeless", shape=None)
    words = ["--task", "needle", "--model", preset, "--length", 128, "--random-weights", "--dry-run"]
    assert "the preset shapeless has no `shape`" in refusal(command, *words)


def test_a_served_model_is_not_measured_in_a_plan(command: Callable[..., Any]) -> None:
    said = refusal(command, "--task", "efficiency", "--model", "served-135m", "--length", 128, "--dry-run")
    assert "efficiency measures memory and arithmetic" in said
