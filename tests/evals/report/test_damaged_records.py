"""Records that were edited or damaged, one by one: what the commands say about each, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.synthetic_run import write_run

from evals.cli.report import main
from evals.records.read import REPAIR

MODELS = ("synthetic-full", "synthetic-sharedllm")
Edit = Callable[[Any], object]


def first(records: dict[str, Any]) -> str:
    return next(iter(records))


def cell(**fields: object) -> Edit:
    return lambda run: run["cells"][first(run["cells"])].update(fields)


def model(**fields: object) -> Edit:
    return lambda run: run["models"][first(run["models"])].update(fields)


def lost(group: str, field: str) -> Edit:
    return lambda run: run[group][first(run[group])].pop(field)


def null(group: str) -> Edit:
    return lambda run: run[group].update({first(run[group]): None})


def put(**fields: object) -> Edit:
    return lambda record: record.update(fields)


def drop(field: str) -> Edit:
    return lambda record: record.pop(field)


RUN: dict[str, tuple[Edit, str]] = {
    "higher_is_better=null": (cell(higher_is_better=None), "higher_is_better: expected true or false, found null"),
    "higher_is_better=yes": (cell(higher_is_better="yes"), "higher_is_better: expected true or false, found 'yes'"),
    "status=5": (cell(status=5), "status: expected 'pending', 'ok', 'oom' or 'failed', found 5"),
    "status=[]": (cell(status=[]), "status: expected 'pending', 'ok', 'oom' or 'failed', found []"),
    "cell null": (null("cells"), ": expected names with values, found null"),
    "no preset": (lost("models", "preset"), "lacks models.synthetic-full.preset"),
    "model null": (null("models"), "models.synthetic-full: expected names with values, found null"),
    "budget list": (model(budget=[]), "models.synthetic-full.budget: expected names with values, found []"),
    "preset null": (model(preset=None), "models.synthetic-full.preset: expected names with values, found null"),
    "weights text": (
        model(preset={"weights": "here"}),
        "synthetic-full.preset: weights in it: expected names with values",
    ),
    "settings list": (
        model(preset={"settings": [1]}),
        "synthetic-full.preset: settings in it: expected names with values",
    ),
    "git text": (put(environment={"git": "abc"}), "does not fit at environment: git in it: expected names with values"),
    "packages list": (put(environment={"packages": [1]}), "at environment: packages in it: expected names with values"),
    "no task_version": (lost("cells", "task_version"), ".task_version"),
    "no metric": (lost("cells", "metric"), ".metric"),
    "no length": (lost("cells", "length"), ".length"),
}
SAMPLE: dict[str, tuple[Edit, str]] = {
    **{f"no {name}": (drop(name), f"it lacks {name}") for name in ("status", "meta", "prompt", "audit", "reference")},
    "cell=5": (put(cell=5), "sample.cell: expected text, found 5"),
    "cell=null": (put(cell=None), "sample.cell: expected text, found null"),
    "cell=[]": (put(cell=[]), "sample.cell: expected text, found []"),
    "no sample": (drop("sample"), "sample.sample: it is missing"),
    "sample=5": (put(sample=5), "sample.sample: expected text, found 5"),
    "sample=null": (put(sample=None), "sample.sample: expected text, found null"),
    "metrics=null": (put(metrics=None), "sample.metrics: expected names with values, found null"),
    "metrics=[]": (put(metrics=[]), "sample.metrics: expected names with values, found []"),
    "metric x": (put(metrics={"exact_match": "x"}), "sample.metrics.exact_match: expected a number, found 'x'"),
    "metric null": (put(metrics={"exact_match": None}), "sample.metrics.exact_match: expected a number, found null"),
    "metric no name": (put(metrics={"": 1}), "expected 1 or more characters, found ''"),
    "surrogate": (put(output={"text": "\ud800", "tokens": 1}), "it is not valid JSON ("),
}
PERF: dict[str, tuple[Edit, str]] = {
    "ttft_s=x": (put(ttft_s="x"), "perf.ttft_s: expected a number, found 'x'"),
    "tpot_ms=[]": (put(tpot_ms=[]), "perf.tpot_ms: expected a number, found []"),
    "no status": (drop("status"), "perf.status: it is missing"),
}
LINES = [("sample", name, *case) for name, case in SAMPLE.items()]
LINES += [("perf", name, *case) for name, case in PERF.items()]


@pytest.fixture
def folder(tmp_path: Path, no_plots: None) -> Path:
    return write_run(tmp_path / "run", samples=2, models=MODELS, tasks=("needle",))


@pytest.fixture(params=["report", "compare"])
def command(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str]]:
    """Runs one of the two commands: (exit code, stderr)."""

    def run(folder: Path) -> tuple[int, str]:
        compare = ["compare", str(folder), "--model", ",".join(MODELS)]
        with pytest.raises(SystemExit) as done:
            main(compare if request.param == "compare" else [str(folder)])
        return int(done.value.code or 0), capsys.readouterr().err

    return run


def edit_lines(folder: Path, kind: str, *edits: Edit) -> None:
    """Change the first records of a kind."""
    file = folder / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, edit in zip([row for row in rows if row["kind"] == kind], edits, strict=False):
        edit(row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", RUN)
def test_a_damaged_run_record_is_one_sentence(name: str, folder: Path, command: Any) -> None:
    edit, says = RUN[name]
    record = json.loads((folder / "run.json").read_text())
    edit(record)
    (folder / "run.json").write_text(json.dumps(record))
    code, err = command(folder)
    assert code == 2
    assert err.startswith(f"{folder / 'run.json'} ")
    assert says in err
    assert err.endswith(f": {REPAIR}.\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("kind", "name", "edit", "says"), LINES, ids=[f"{k} {n}" for k, n, *_ in LINES])
def test_a_damaged_line_is_named_with_its_fault(
    kind: str, name: str, edit: Edit, says: str, folder: Path, command: Any
) -> None:
    edit_lines(folder, kind, edit)
    code, err = command(folder)
    note, *_, last = err.splitlines()
    assert code == 2
    assert note.startswith(f"{folder / 'samples.jsonl'}: 1 damaged record is left out (line ")
    assert says in note
    assert note.endswith("); the command of this run measures it again.")
    assert last.startswith(f"This is without a record of {folder} that could not be read: start its command again")


def test_what_is_left_of_a_damaged_run_is_reported(folder: Path) -> None:
    edit_lines(folder, "sample", drop("status"))
    with pytest.raises(SystemExit) as done:
        main([str(folder)])
    assert done.value.code == 2
    assert "1 damaged record is left out" in (folder / "report.html").read_text()


def test_several_damaged_lines_are_counted(folder: Path, command: Any) -> None:
    edit_lines(folder, "sample", *[drop("status")] * 4)
    code, err = command(folder)
    assert code == 2
    assert "4 damaged records are left out (line 1: it lacks status; line 2: it lacks status; line" in err
    assert "; ...); the command of this run measures them again." in err
    assert f"This is without 4 records of {folder}" in err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_a_score_that_is_no_finite_number_is_a_failed_sample(
    value: float, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_lines(folder, "sample", put(metrics={"exact_match": value}))
    with pytest.raises(SystemExit) as done:
        main([str(folder)])
    assert not done.value.code
    assert "1 of 2 samples do not count (1 failed)" in capsys.readouterr().err
