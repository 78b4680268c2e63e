"""The run folder: nothing measured is lost, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import folders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.errors import UserError
from evals.records.store import Run, StoreError, read_records, read_run

HEADER = {"command": ["x"], "spec": {}, "environment": {}}


def sample(number: int) -> dict:
    return {"kind": "sample", "cell": "c", "sample": str(number), "text": "straße\n" * number}


def test_records_come_back_in_order(tmp_path: Path) -> None:
    with Run(tmp_path, "k", HEADER) as run:
        for number in range(3):
            run.append(sample(number))
        run.append({"kind": "perf", "cell": "c"})
    assert list(read_records(tmp_path)) == [*map(sample, range(3)), {"kind": "perf", "cell": "c"}]
    with Run(tmp_path, "k", HEADER) as again:
        assert again.done == {"c": {"0", "1", "2"}}
        assert again.perf == {"c"}
        assert len(again.meta["resumed"]) == 1


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_torn_last_line_is_cut_off_and_only_that(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    with Run(folder, "k", HEADER) as run:
        for number in range(4):
            run.append(sample(number))
    file = folder / "samples.jsonl"
    whole = file.read_bytes()
    torn = whole[: max(len(whole) - cut, 0)]
    file.write_bytes(torn)
    with Run(folder, "k", HEADER) as run:
        kept = torn.count(b"\n")
        assert run.done.get("c", set()) == {str(number) for number in range(kept)}
        run.append(sample(9))
    assert [r["sample"] for r in read_records(folder)] == [*map(str, range(kept)), "9"]


def test_repair_finds_a_line_end_far_back(tmp_path: Path) -> None:
    with Run(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write(b'{"kind": "' + b"x" * 200_000)
    with Run(tmp_path, "k", HEADER) as run:
        assert run.done == {"c": {"1"}}


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    with Run(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    file = tmp_path / "samples.jsonl"
    file.write_bytes(b"not json\n" + file.read_bytes())
    with pytest.raises(UserError, match=r"samples\.jsonl line 1"):
        Run(tmp_path, "k", HEADER)


@pytest.mark.parametrize("line", [b"5", b'{"a": 1}', b"[]"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    with Run(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UserError, match=r"samples\.jsonl line 2 is not a record"):
        Run(tmp_path, "k", HEADER)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    with Run(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    before = (tmp_path / "samples.jsonl").read_bytes()
    with pytest.raises(StoreError, match="another run"):
        Run(tmp_path, "other", HEADER)
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="not empty"):
        Run(tmp_path, "k", HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with Run(tmp_path, "k", HEADER), pytest.raises(StoreError, match="Another process"):
        Run(tmp_path, "k", HEADER)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in ("file", "file/run"):
        with pytest.raises(StoreError, match="is not a folder: choose another --output"):
            Run(tmp_path / folder, "k", HEADER)


def test_run_json_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="format"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="not a run"):
        read_run(tmp_path / "nowhere")


FULL_DISK = """
import resource, sys
from evals.records.store import Run, StoreError
with Run(sys.argv[1], "k", {}) as run:
    for number in range(1000):
        run.append({"kind": "sample", "cell": "c", "sample": str(number), "text": "x" * 500})
"""


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: a write gets part of its bytes, then an error."""
    code = FULL_DISK.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
        cwd=folders.ROOT,
    )
    assert process.returncode == 1
    assert "StoreError: Cannot write to" in process.stderr
    content = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert content.endswith(b"\n")
    numbers = [json.loads(line)["sample"] for line in content.splitlines()]
    assert numbers == [str(number) for number in range(len(numbers))]
    assert len(numbers) > 30
