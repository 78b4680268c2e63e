"""A run that does not fit into memory makes the same report: samples are read when they are needed."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from fixtures.synthetic_run import write_run

from evals import report
from evals.errors import UserError
from evals.records.models import SampleRecord
from evals.records.read import read_records
from evals.report import page
from evals.report.load import Run, load, merge
from evals.report.stored import Lines

MODELS = ("synthetic-full", "synthetic-sharedllm")
pytestmark = pytest.mark.usefixtures("no_plots")


def test_samples_on_the_disk_are_a_sequence_of_the_newest_records(tmp_path: Path) -> None:
    folder = write_run(tmp_path, samples=4, models=MODELS, tasks=("needle",))
    lines = (folder / "samples.jsonl").read_text().splitlines()
    again = json.loads(lines[1])
    again["output"]["text"] = "again"
    (folder / "samples.jsonl").write_text("\n".join([*lines, json.dumps(again)]) + "\n")
    found = load(folder).samples[again["cell"]]
    assert [s.sample for s in found] == [f"needle-{i}" for i in range(4)]
    assert found[1].output.text == found[-3].output.text == found[1:3][0].output.text == "again"
    assert len(found) == len(found[:]) == 4
    with pytest.raises(IndexError):
        found[4]


def test_each_sample_is_read_once_for_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for the page once more, as far as the page holds it. None of them stays in memory."""
    folder = write_run(tmp_path, samples=20, models=MODELS)
    total = sum(isinstance(record, SampleRecord) for record in read_records(folder))
    reads, read = [], Lines.sample
    monkeypatch.setattr(Lines, "sample", lambda self, offset: (reads.append(offset), read(self, offset))[1])
    monkeypatch.setattr(page, "MOST_SAMPLES", 50)
    run = load(folder)
    report.write(run, folder)
    assert len(reads) == total + 50
    assert "samples are left out to keep this page fast" in (folder / "report.html").read_text()
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, SampleRecord)]


def test_a_file_that_changes_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    run = load(write_run(tmp_path, samples=4, models=MODELS))
    (tmp_path / "samples.jsonl").write_text("other\n")
    with pytest.raises(UserError, match="changed while it was read"):
        report.write(run, tmp_path)


def two(tmp_path: Path, change: str) -> list[Run]:
    """A run, and a copy that took longer and whose first answer is `change`."""
    runs = [write_run(tmp_path / name, 3, models=MODELS, tasks=("longbench:qasper",)) for name in "ab"]
    head, *rest = (runs[1] / "samples.jsonl").read_text().splitlines()
    value = json.loads(head)
    value["output"]["text"] = change or value["output"]["text"]
    value["seconds"]["read"] = 77.0
    (runs[1] / "samples.jsonl").write_text("\n".join([json.dumps(value), *rest]) + "\n")
    return [load(run) for run in runs]


def test_a_cell_in_two_runs_counts_once_if_they_agree(tmp_path: Path) -> None:
    merged = merge(two(tmp_path, change=""), tmp_path / "out")
    assert [len(samples) for samples in merged.samples.values()] == [3, 3]
    assert next(iter(merged.samples.values()))[0].seconds["read"] == 77.0


def test_a_cell_that_two_runs_answered_differently_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in two of the runs with different records \(sample longbench:qasper-0\)"):
        merge(two(tmp_path, change="another answer"), tmp_path / "out")
