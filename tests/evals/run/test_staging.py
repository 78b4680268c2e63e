"""Data on the nodes of a cluster: what is missing there is sent, or named in one sentence with its machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
from evals.records.models import CellState
from evals.run.cluster import staging
from evals.run.cluster.hand import Hand
from evals.run.cluster.hearing import Hearing
from evals.run.cluster.worker import Place
from evals.run.grid import Cell, plan
from evals.run.spec import RunSpec


def cells(texts: Path) -> list[Cell]:
    return plan(RunSpec(tasks=["perplexity"], models=["full-135m"], lengths=[512], random_weights=True, data_dir=texts))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(staging, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_data_that_a_node_lacks_are_sent_and_read_there(texts: Path, tmp_path: Path, cache: Path) -> None:
    here = shutil.copytree(texts, tmp_path / "here")
    todo = cells(here)
    ids = [cell.id for cell in todo]
    parcel = staging.pack(todo, here)
    assert parcel is not None
    assert staging.missing(here, lambda: parcel) is None  # it is there
    shutil.rmtree(here)
    for _ in range(2):  # a second worker of the node finds them
        home = staging.missing(here, lambda: parcel)
        assert home is not None
        assert home.is_relative_to(cache)
        moved = [staging.reading(cell, home) for cell in todo]
        assert moved[0].task.task.data.data_dir == home
    assert {path.name: path.read_bytes() for path in home.iterdir()} == {
        path.name: path.read_bytes() for path in texts.iterdir() if path.is_file()
    }
    assert [cell.id for cell in moved] == ids == [cell.id for cell in cells(home)]


def test_a_single_file_is_sent_as_one(texts: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(texts / "words.txt", tmp_path))
    parcel = staging.pack(cells(file), file)
    assert parcel is not None
    file.unlink()
    home = staging.missing(file, lambda: parcel)
    assert home is not None
    assert home.read_bytes() == (texts / "words.txt").read_bytes()


def test_large_data_stay_where_they_are(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST_BYTES", 100)
    assert staging.pack(cells(texts), texts) is None
    assert staging.missing(Path("/nowhere"), lambda: None) is None


def test_a_fault_on_a_cluster_names_the_machine_and_the_path() -> None:
    hearing = Hearing.__new__(Hearing)
    hearing.cluster = SimpleNamespace(hosts=lambda: 2)  # type: ignore[assignment]
    state = CellState(
        model="a", task="b", length=1, settings={}, task_version=1, metric="m", higher_is_better=True, status="failed"
    )
    failed = state.model_copy(update={"error": "There are no weights in /models/a: name their folder."})
    placed = hearing._placed(Hand(None, place=Place("node7", "H100", 5)), failed)
    assert placed.error == "On node7: There are no weights in /models/a: name their folder."
