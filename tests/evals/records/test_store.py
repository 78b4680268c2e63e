"""The run folder: nothing measured is lost, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import folders
import pytest
from fixtures.synthetic_run import write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.errors import UserError
from evals.records import disk
from evals.records.models import Answer, CellState, Measurement, PerfRecord, SampleRecord
from evals.records.read import read_answers, read_records, read_run
from evals.records.store import RunStore, StoreError

HEADER = {"command": ["x"], "spec": {}, "environment": {}}


def sample(number: int) -> SampleRecord:
    return SampleRecord(
        cell="c", sample=str(number), metrics={"score": 1.0}, output=Answer(text="straße\n" * number, tokens=number)
    )


PERF = PerfRecord.of("c", Measurement(status="ok", ttft_s=0.5))


def test_records_come_back_in_order(tmp_path: Path) -> None:
    with RunStore(tmp_path, "k", HEADER) as run:
        for number in range(3):
            run.append(sample(number))
        run.append(PERF)
    assert list(read_records(tmp_path)) == [*map(sample, range(3)), PERF]
    with RunStore(tmp_path, "k", HEADER) as again:
        assert again.samples == {"c": {"0", "1", "2"}}
        assert again.perf == {"c"}
        assert len(again.meta.resumed) == 1


@settings(deadline=None)
@given(cut=st.integers(min_value=0, max_value=400))
def test_a_torn_last_line_is_cut_off_and_only_that(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    with RunStore(folder, "k", HEADER) as run:
        for number in range(4):
            run.append(sample(number))
    file = folder / "samples.jsonl"
    whole = file.read_bytes()
    torn = whole[: max(len(whole) - cut, 0)]
    file.write_bytes(torn)
    with RunStore(folder, "k", HEADER) as run:
        kept = torn.count(b"\n")
        assert run.samples.get("c", set()) == {str(number) for number in range(kept)}
        run.append(sample(9))
    assert [r.sample for r in read_records(folder)] == [*map(str, range(kept)), "9"]


def test_repair_finds_a_line_end_far_back(tmp_path: Path) -> None:
    with RunStore(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write(b'{"kind": "' + b"x" * 200_000)
    with RunStore(tmp_path, "k", HEADER) as run:
        assert run.samples == {"c": {"1"}}


def flipped(line: bytes) -> bytes:
    """A line with one bit of a digit turned over: still valid JSON, another number."""
    return line.replace(b'"tokens":1', b'"tokens":3')


DAMAGE = {
    "zeros": lambda lines: [lines[0], b"\0" * len(lines[1]), lines[2]],
    "a block of zeros over a line end": lambda lines: [lines[0], lines[1][:-20] + b"\0" * 40 + lines[2][20:]],
    "a flipped bit": lambda lines: [lines[0], flipped(lines[1]), lines[2]],
    "a missing line": lambda lines: [lines[0], lines[2]],
    "a doubled line": lambda lines: [lines[0], lines[1], lines[1], lines[2]],
    "a line cut short": lambda lines: [lines[0], lines[1][:50] + b"\n", lines[2]],
    "two lines run together": lambda lines: [lines[0], lines[1].rstrip(b"\n") + lines[2]],
    "a number": lambda lines: [lines[0], b"5\n", lines[2]],
    "another object": lambda lines: [lines[0], b'{"a": 1}\n', lines[2]],
    "a list": lambda lines: [b"[]\n", *lines[1:]],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_records_are_set_aside_and_can_be_measured_again(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    records = [sample(number) for number in range(3)]
    with RunStore(tmp_path, "k", HEADER) as run:
        run.append(*records)
    file = tmp_path / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(damage(whole.splitlines(keepends=True))))
    before = file.read_bytes()
    with RunStore(tmp_path, "k", HEADER) as run:
        for record in records:
            if record.sample not in run.samples.get("c", set()):
                run.append(record)
    assert sorted(r.sample for r in read_records(tmp_path)) == ["0", "1", "2"]
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    aside = tmp_path / "samples.damaged.jsonl"
    kept = file.read_bytes() + (aside.read_bytes() if aside.exists() else b"")
    assert all(line in kept for line in before.splitlines())


def test_a_record_without_a_checksum_counts(tmp_path: Path) -> None:
    with RunStore(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    file = tmp_path / "samples.jsonl"
    old = json.loads(file.read_bytes())
    del old["crc"]
    file.write_text(json.dumps(old) + "\n", encoding="utf-8")
    with RunStore(tmp_path, "k", HEADER) as run:
        assert run.samples == {"c": {"1"}}


def test_half_a_surrogate_pair_and_nan_come_back_readable(tmp_path: Path) -> None:
    record = sample(1).model_copy(update={"meta": {"\ud800": "\udfff!"}, "metrics": {"score": math.nan}})
    with RunStore(tmp_path, "k", HEADER) as run:
        run.append(record)
    [found] = read_records(tmp_path)
    assert isinstance(found, SampleRecord)
    assert found.meta == {"\ufffd": "\ufffd!"}
    assert math.isnan(found.metrics["score"])


def test_what_a_kill_left_of_a_cell_can_be_forgotten(tmp_path: Path) -> None:
    with RunStore(tmp_path, "k", HEADER) as run:
        run.append(sample(1), PERF, sample(2).model_copy(update={"cell": "d"}))
        run.forget({"c"})
        assert run.samples == {"d": {"2"}}
        assert run.perf == set()
        run.append(sample(3).model_copy(update={"cell": "d"}))
    assert [record.cell for record in read_records(tmp_path)] == ["d", "d"]


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path, "k", HEADER) as run:
        run.append(sample(1))
    before = (tmp_path / "samples.jsonl").read_bytes()
    with pytest.raises(StoreError, match="another run"):
        RunStore(tmp_path, "other", HEADER)
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="not empty"):
        RunStore(tmp_path, "k", HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path, "k", HEADER), pytest.raises(StoreError, match="Another process"):
        RunStore(tmp_path, "k", HEADER)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in ("file", "file/run"):
        with pytest.raises(StoreError, match="is not a folder: choose another --output"):
            RunStore(tmp_path / folder, "k", HEADER)


def test_run_json_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="format"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="not a run"):
        read_run(tmp_path / "nowhere")


FULL_DISK = """
import resource, sys
from evals.records.models import Answer, SampleRecord
from evals.records.store import RunStore, StoreError
with RunStore(sys.argv[1], "k", {}) as run:
    for number in range(1000):
        answer = Answer(text="x" * 400, tokens=1)
        run.append(SampleRecord(cell="c", sample=str(number), metrics={}, output=answer))
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
    assert len(numbers) > 25


def test_what_a_disk_refuses_behind_the_run_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk gets a record while the next request is answered; the record that it refuses is not in the file, and
    nothing is written that counts on it, though the disk takes everything else.
    """
    run = RunStore(tmp_path, "k", HEADER)
    run.append(sample(0))
    run.meta.cells["c"] = CellState(
        model="m", task="t", length=1, settings={}, task_version=1, metric="score", higher_is_better=True
    )
    run.save()
    with monkeypatch.context() as full:
        full.setattr(disk.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        run.append(sample(1))
        with pytest.raises(StoreError, match="No space left"):
            run.append(sample(2))
    run.meta.cells["c"].status = "ok"
    for write in (run.save, lambda: run.save_cells("c"), lambda: run.__exit__(None, None, None)):
        with pytest.raises(StoreError, match="No space left"):
            write()
    assert list(read_records(tmp_path)) == [sample(0)]
    assert read_run(tmp_path).cells["c"].status == "pending"


def test_a_state_is_written_after_the_records_that_it_counts_on(tmp_path: Path, monkeypatch) -> None:
    order = []
    with RunStore(tmp_path, "k", HEADER) as run:
        samples = (tmp_path / "samples.jsonl").stat().st_ino
        sync = disk.os.fsync
        with monkeypatch.context() as watched:
            watched.setattr(disk.os, "fsync", lambda file: (order.append(os.fstat(file).st_ino), sync(file))[1])
            run.append(sample(0))
            run.save()
    assert order[0] == samples
    assert len(order) == 2


def test_the_answers_of_a_run_are_its_samples_without_their_seconds(tmp_path: Path) -> None:
    """As they were written: one that is there twice is found twice, so that a comparison can count it."""
    folder = write_run(tmp_path, samples=2, tasks=("needle",))
    before = list(read_answers(folder))
    lines = (folder / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [place for place, _ in before] == [(r["cell"], r["sample"]) for r in rows if r["kind"] == "sample"]
    for row in rows:
        if row["kind"] == "sample":
            row["seconds"] = {"read": 9.0}
    rows.append(next(row for row in rows if row["kind"] == "sample"))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_answers(folder)) == [*before, before[0]]
