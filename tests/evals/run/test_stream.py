"""`--log trackio`: cells are sent when they finish. A module that writes down its calls stands for trackio."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from records_read import records_read
from standins import write_preset

from evals.cli import launch

pytestmark = pytest.mark.usefixtures("standins")


class FakeRun:
    def __init__(self, calls: list[Any], name: str) -> None:
        self.calls, self.name = calls, name

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append((self.name, step, metrics))

    def finish(self) -> None:
        self.calls.append((self.name, "finish"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the runs of a module that stands for trackio were told. Like it, the module prints and has a current run."""
    found: list[Any] = []
    current: list[FakeRun] = []

    def init(project: str, name: str, config: dict[str, Any]) -> FakeRun:
        print(f"* Created new run: {name}")
        current[:] = [FakeRun(found, name)]
        return current[0]

    module = ModuleType("trackio")
    module.init, module.finish = init, lambda: current.pop().finish()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    return found


def arguments(folder: Path, *names: str) -> list[object]:
    models = ",".join(str(write_preset(folder, name, settings={"factor": ord(name)})) for name in names)
    return ["--task", "sum", "--model", models, "--length", "64,128", "--random-weights", "--limit", 2,
            "--output", folder / "run", "--log", "trackio"]  # fmt: skip


def test_every_cell_is_logged_once_with_scores_and_times(
    command: Callable[..., Any], tmp_path: Path, calls: list[Any]
) -> None:
    result = command(*arguments(tmp_path, "a", "b"))
    assert result.code == 0, result.err
    assert "Created new run" in result.err
    assert "Created" not in result.out
    logged = [call for call in calls if call[1] != "finish"]
    assert [call[:2] for call in logged] == [("run-a", 64), ("run-a", 128), ("run-b", 64), ("run-b", 128)]
    for (_, _, metrics), cell in zip(logged, result.last["cells"], strict=True):
        assert metrics["sum/exact"] == cell["metrics"]["exact"]
        assert metrics["sum/ttft_s"] == pytest.approx(cell["ttft_s"])
    assert [call for call in calls if call[1] == "finish"] == [("run-a", "finish"), ("run-b", "finish")]


def test_the_records_of_a_cell_are_read_once(
    command: Callable[..., Any], tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "write_report", lambda folder: (None, None))
    with records_read(monkeypatch) as read:
        command(*arguments(tmp_path, "a", "b"))
    assert len(read) == 2 * 2 * (2 + 1)  # two samples and a measurement of each cell


def test_a_missing_package_is_one_sentence(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    result = command(*arguments(tmp_path, "a"))
    assert result.code == 2
    assert result.err.strip() == "--log trackio needs the package trackio: pip install 'sharedllm[trackio]'."
