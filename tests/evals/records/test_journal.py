"""`run.json` of thousands of cells is written at most once a second: what changes meanwhile is on the disk too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from not_empty import not_empty

from evals.errors import UserError
from evals.records import disk, store
from evals.records.journal import JOURNAL_FILE
from evals.records.models import CellState
from evals.records.read import read_run
from evals.records.store import RunStore

HEADER = {"command": ["x"], "spec": {}, "environment": {}}
CELLS = 5


def cell(**fields: object) -> CellState:
    fixed = {"model": "m", "task": "t", "length": 1, "settings": {}, "task_version": 1, "metric": "x"}
    return CellState(**fixed, higher_is_better=True, **fields)  # type: ignore[arg-type]


def opened(folder: Path) -> RunStore:
    run = RunStore(folder, "k", HEADER)
    run.meta.cells |= {str(number): cell() for number in range(CELLS)}
    run.save()
    return run


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was replaced."""
    found: list[Path] = []
    original = store.replace_file
    monkeypatch.setattr(store, "replace_file", lambda path, content: (found.append(path), original(path, content)))
    return found


def test_run_json_is_not_written_for_each_cell_and_says_all_at_the_end(tmp_path: Path, written: list[Path]) -> None:
    with opened(tmp_path) as run:
        before = len(written)
        for name, state in not_empty(run.meta.cells.items()):
            state.status, state.samples = "ok", 3
            run.save_cells(name)
            assert read_run(tmp_path).cells[name].status == "ok"
        assert len(written) == before
        assert (tmp_path / JOURNAL_FILE).exists()
    assert len(written) == before + 1
    assert not (tmp_path / JOURNAL_FILE).exists()
    assert {state.status for state in read_run(tmp_path).cells.values()} == {"ok"}


def test_run_json_is_written_again_after_a_while(
    tmp_path: Path, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(store, "SAVE_SHARE", 1e9)
    with opened(tmp_path) as run:
        before = len(written)
        run.save_cells("0")
        assert len(written) == before + 1
        assert not (tmp_path / JOURNAL_FILE).exists()


def killed_after(folder: Path, *changes: tuple[str, CellState]) -> Path:
    """The run folder as a kill leaves it after these changes."""
    with opened(folder / "live") as run:
        for name, state in changes:
            run.meta.cells[name] = state
            run.save_cells(name)
        shutil.copyfile(folder / "live" / JOURNAL_FILE, folder / "killed.jsonl")
        return Path(shutil.copytree(folder / "live", folder / "killed"))


def test_a_kill_loses_no_state_and_the_last_one_counts(tmp_path: Path) -> None:
    odd = cell(status="failed", error="straße \ud800\u2028 ends", planned_s=float("nan"))
    whole = cell(status="ok", samples=7)
    folder = killed_after(tmp_path, ("0", cell(begun=1)), ("1", whole), ("0", cell(begun=2)), ("2", odd))
    with RunStore(folder, "k", HEADER) as run:
        assert run.meta.cells["0"].begun == 2
        assert (run.meta.cells["1"].status, run.meta.cells["1"].samples) == ("ok", 7)
        assert run.meta.cells["2"].error == "straße \ufffd\u2028 ends"
        assert run.meta.cells["3"].status == "pending"
        assert not (folder / JOURNAL_FILE).exists()


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_line_cut_short_or_damaged_is_left_out_and_only_that(tmp_path: Path, cut: int) -> None:
    folder = killed_after(tmp_path, *((name, cell(status="ok")) for name in "012"))
    path = folder / JOURNAL_FILE
    head, first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + first + second[:10] + b"\0\0" + second[12:] + third[:-cut])
    states = [state.status for state in read_run(folder).cells.values()]
    assert states[:2] == ["ok", "pending"]
    assert states[2] == ("ok" if cut == 1 else "pending")


def test_changes_of_cells_that_a_run_does_not_have_are_left_out(tmp_path: Path) -> None:
    folder = killed_after(tmp_path, ("0", cell(status="ok")))
    path = folder / JOURNAL_FILE
    path.write_bytes(path.read_bytes().replace(b'"cell": "0"', b'"cell": "x"'))
    assert read_run(folder).cells.keys() == {str(number) for number in range(CELLS)}


def test_a_journal_beside_another_run_json_says_nothing(tmp_path: Path) -> None:
    """It came from another run of the same cells, or a kill came after run.json was written and before it ended."""
    folder = killed_after(tmp_path, ("0", cell(status="failed")))
    assert read_run(folder).cells["0"].status == "failed"
    with RunStore(folder, "k", HEADER) as run:
        journal = (tmp_path / "killed.jsonl").read_bytes()
        run.meta.cells["0"].status = "ok"
        run.save()
    (folder / JOURNAL_FILE).write_bytes(journal)
    assert read_run(folder).cells["0"].status == "ok"


@pytest.mark.parametrize("damage", ["folder", "pipe"])
def test_a_journal_that_is_no_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path):
        pass
    path = tmp_path / JOURNAL_FILE
    path.mkdir() if damage == "folder" else os.mkfifo(path)
    with pytest.raises(UserError, match=r"\.run\.jsonl (is not a regular file|cannot be read)"):
        read_run(tmp_path)


def test_what_a_full_disk_refused_is_appended_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "live") as run:
        with monkeypatch.context() as full:
            full.setattr(disk.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(store.StoreError, match="No space left"):
                run.save_cells("0")
        run.meta.cells["1"].status = "ok"
        run.save_cells("1")
        assert read_run(tmp_path / "live").cells["1"].status == "ok"
