"""A run folder becomes summary, tables and plots whose numbers are those of its samples."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from fixtures.synthetic_run import LENGTHS, MODELS, write_run
from not_empty import not_empty

from evals import report
from evals.cli.report import main
from evals.errors import UserError
from evals.report.data import Data
from evals.report.digest import task_of
from evals.report.effective import effective_lengths
from evals.report.hints import ceiling_hints, hints
from evals.report.load import load, merge
from evals.report.stats import Interval
from evals.report.stats.interval import FEWEST
from evals.report.tables import Table, summary_table

FULL, SHARED = "synthetic-full", "synthetic-sharedllm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), samples=10)


@pytest.fixture(scope="module")
def built(folder):
    report.write(load(folder), folder)
    return folder


def test_a_row_says_what_the_task_defines(folder) -> None:
    run = load(folder)
    summary = Data.of(run).summary.set_index("cell")
    assert len(summary) == len(MODELS) * (2 * len(LENGTHS) + 1)
    for cell, record in run.cells.items():
        samples = run.scored(cell)
        if samples:
            for name, value in not_empty(task_of(record).summarize(samples).items()):
                assert summary.loc[cell, name] == pytest.approx(value)
                low, high = (summary.loc[cell, f"{name}_{side}"] for side in ("low", "high"))
                assert low <= value <= high or (math.isnan(low) and summary.loc[cell, "groups"] < FEWEST)
        assert summary.loc[cell, "n"] == len(samples)


def test_out_of_memory_is_a_row(folder) -> None:
    summary = Data.of(load(folder)).summary
    lost = summary[(summary["model"] == FULL) & (summary["length"] == LENGTHS[-1])]
    assert set(lost["status"]) == {"oom"}
    assert (lost["n"] == 0).all()
    assert lost["ttft_s"].isna().all()
    assert (lost["peak_gib"] > 60).all()


def test_build_writes_everything(built) -> None:
    summary = pd.read_parquet(built / "summary.parquet")
    pd.testing.assert_frame_equal(
        summary.select_dtypes("number").astype(float),
        pd.read_csv(built / "summary.csv")[summary.select_dtypes("number").columns].astype(float),
    )
    names = {p.stem for p in (built / "plots").glob("*.svg")}
    assert names == {p.stem for p in (built / "plots").glob("*.png")}
    assert names == {
        *("length-needle", "length-perplexity", "scores-longbench", "depth-needle", "context_use", "efficiency"),
        *("pareto-needle", "pareto-perplexity", "pareto-longbench"),
    }
    markdown = (built / "summary.md").read_text()
    assert "synthetic-sharedllm: method sharedllm, window 2048" in markdown  # the fairness record
    assert (built / "tables" / "table1-2-perplexity.tex").read_text().count(r"\begin{tabular}") == 1


def test_a_torn_line_is_left_out_with_a_note(tmp_path) -> None:
    run = write_run(tmp_path, samples=2)
    whole = load(run)
    text = (run / "samples.jsonl").read_text()
    (run / "samples.jsonl").write_text(text[:-30])
    torn = load(run)
    assert sum(map(len, torn.samples.values())) + len(torn.perf) == (
        sum(map(len, whole.samples.values())) + len(whole.perf) - 1
    )
    assert len(torn.notes) == 1
    assert "cut short" in torn.notes[0]


def test_the_newest_record_of_a_sample_counts(tmp_path) -> None:
    run = write_run(tmp_path, samples=2)
    first = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    first["metrics"]["exact_match"] = 0.5
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps(first) + "\n")
    found = load(run).samples[first["cell"]]
    assert len(found) == 2
    assert found[0].metrics["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: None, "is not a run: it holds no run.json, so name a folder"),
        (lambda f: f.rmdir(), "is not a run: there is no such folder"),
        (lambda f: (f / "one").mkdir() or (f / "one" / "run.json").touch(), "one, so name those"),
        (lambda f: (f / "run.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "run.json").write_text('{"format": 9}'), "format"),
        (lambda f: (f / "run.json").write_bytes(b'{"format": "\xe9"}'), "not UTF-8"),
        (lambda f: (f / "run.json").write_text('{"format": 1, "created": "2026-01-01"}'), "lacks its cells"),
        (
            lambda f: (f / "run.json").write_text('{"format": 1, "created": "2026-01-01", "models": {}, "cells": {}}'),
            "is empty",
        ),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path, capsys, prepare, message) -> None:
    prepare(tmp_path)
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path)])
    error = capsys.readouterr().err
    assert done.value.code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path, capsys) -> None:
    run = write_run(tmp_path / "run", samples=4)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as done:
        main([str(run), "--output", str(tmp_path / "file")])
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2
    assert "cannot be written to" in error
    assert len(error.splitlines()) == 1


@pytest.mark.usefixtures("no_plots")
def test_several_runs_make_one_report(tmp_path, capsys) -> None:
    first = write_run(tmp_path / "a", samples=4, models=(FULL,), tasks=("longbench:qasper",))
    second = write_run(tmp_path / "b", samples=4, models=(SHARED,), tasks=("longbench:qasper",))
    with pytest.raises(SystemExit) as done:
        main([str(first), str(second), "--output", str(tmp_path / "both")])
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert done.value.code == 0
    assert last["reports"][0]["cells"] == 2
    assert set(pd.read_csv(tmp_path / "both" / "summary.csv")["model"]) == {FULL, SHARED}
    assert not (first / "report.html").exists()


def test_merging_tells_models_of_one_name_apart(tmp_path) -> None:
    first = load(write_run(tmp_path / "a", samples=2, models=(SHARED,)))
    second = load(write_run(tmp_path / "b", samples=2, models=(SHARED,)))
    assert set(merge([first, second], tmp_path).models) == {SHARED}
    second.models[SHARED].identity = "other weights"
    for cell in list(second.cells):
        second.cells[cell + "x"] = second.cells.pop(cell)
    merged = merge([first, second], tmp_path)
    assert set(merged.models) == {f"{SHARED} (a)", f"{SHARED} (b)"}
    assert {c.model for c in merged.cells.values()} == set(merged.models)


def test_merging_tells_models_of_folders_with_one_name_apart(tmp_path) -> None:
    runs = [load(write_run(tmp_path / where / "run", samples=2, models=(SHARED,))) for where in "ab"]
    runs[1].models[SHARED].identity = "other weights"
    for cell in list(runs[1].cells):
        runs[1].cells[cell + "x"] = runs[1].cells.pop(cell)
    merged = merge([*runs, runs[0]], tmp_path)
    assert set(merged.models) == {f"{SHARED} (a/run)", f"{SHARED} (b/run)"}
    assert {merged.cells[cell].model for cell in runs[0].cells} == {f"{SHARED} (a/run)"}


def test_merging_tells_runs_apart_that_asked_one_model_in_different_ways(tmp_path) -> None:
    """Under one name, the scores of one of them would stand for both in every table that has a place for one."""
    first = load(write_run(tmp_path / "a", samples=2, models=(FULL, SHARED), tasks=("needle",)))
    others = {}
    for name in ("seed", "settings"):
        others[name] = load(write_run(tmp_path / name, samples=2, models=(SHARED,), tasks=("needle",)))
        for cell in list(others[name].cells):
            others[name].cells[cell + name] = others[name].cells.pop(cell)
            others[name].samples[cell + name] = others[name].samples.pop(cell, [])
    others["seed"].meta.spec["seed"] = 1
    for state in others["settings"].cells.values():
        state.settings["needles"] = 4
    for name, other in others.items():
        merged = merge([first, other], tmp_path)
        assert list(merged.models) == [FULL, f"{SHARED} (a)", f"{SHARED} ({name})"]
        lengths = effective_lengths(Data.of(merged))
        assert [e.model for e in lengths] == list(merged.models)


def test_a_task_that_is_not_installed_is_one_sentence(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=2))
    next(iter(run.cells.values())).task = "needel"
    with pytest.raises(UserError, match="did you mean needle"):
        Data.of(run)


def test_floor_and_ceiling_are_named(folder) -> None:
    data = Data.of(load(folder))
    needle = data.summary["task"] == "needle"
    data.summary.loc[needle, "exact_match"] = 0.6
    data.summary.loc[needle & (data.summary["model"] == FULL), "exact_match"] = [1.0, 0.5, 0.0, 0.0, np.nan]
    data.summary.loc[needle & (data.summary["length"] == 65536), "exact_match"] = 0.0
    found = ceiling_hints(Data(data.run, data.summary))
    assert [f.split(":")[0] for f in found] == ["needle at 8192 tokens", "needle at 65536 tokens"]
    assert "no method can do better" in found[0]
    assert "no model scores above 0" in found[1]


def test_table_forms() -> None:
    frame = pd.DataFrame({"model": ["a_b|c", "d&e"], "score": [Interval(0.5, 0.4, 0.6), "oom"]}, dtype=object)
    table = Table("t", "A title", frame, ["50 % note"], ["a_b: window 5"])
    numbers = table.numbers()
    assert numbers.loc[0].tolist() == ["a_b|c", 0.5, 0.4, 0.6]
    assert numbers.loc[1, "score"] == "oom"
    assert r"| a_b\|c | 0.5 [0.4, 0.6] |" in table.markdown()
    assert r"a\_b|c & 0.5 [0.4, 0.6] \\" in table.latex()
    assert r"50 \% note" in table.latex()
    assert r"d\&e & oom \\" in table.latex()


@pytest.mark.parametrize("left", [None, b"", b"not a record\n"])
def test_a_run_without_its_answers_says_where_they_are(tmp_path, left) -> None:
    write_run(tmp_path, samples=2)
    record = json.loads((tmp_path / "run.json").read_text())
    for state in record["cells"].values():
        state["samples"] = 2  # as every run says of a complete cell
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "samples.jsonl").unlink()
    if left is not None:
        (tmp_path / "samples.jsonl").write_bytes(left)
    with pytest.raises(UserError, match=r"answers of the run .* are not in its samples\.jsonl: copy"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["n", "exact_match_low", "exact_match_high"])
def test_no_metric_takes_the_place_of_another_number(tmp_path, name) -> None:
    write_run(tmp_path, samples=2, models=(FULL,), tasks=("needle",))
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "sample":
            row["metrics"][name] = 0.5
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"has a metric '{name}', a column of every report"):
        Data.of(load(tmp_path))


def test_summary_table_has_no_empty_columns(folder) -> None:
    frame = summary_table(Data.of(load(folder))).frame
    assert not frame.isna().all().any()
    assert math.isfinite(frame["ttft_s"].dropna().astype(float).sum())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_samples_without_a_finite_score_never_take_a_report_down(tmp_path, value) -> None:
    """One cell that holds nothing else, one that holds some; the page and the summary say so."""
    run = load(write_run(tmp_path, samples=4))
    (whole, *_), (part, *_) = ([c for c, r in run.cells.items() if r.task == task] for task in ("perplexity", "needle"))
    run.samples.update({cell: list(run.samples[cell]) for cell in (whole, part)})
    for sample in [*run.samples[whole], run.samples[part][0]]:
        sample.metrics = dict.fromkeys(sample.metrics, value)
    summary = report.write(run, tmp_path / "out").set_index("cell")
    page, table = ((tmp_path / "out" / name).read_text() for name in ("report.html", "summary.md"))
    if math.isfinite(value):
        assert summary.loc[whole, "nll"] == pytest.approx(value)
        return
    assert summary.loc[whole, "n"] == 0
    assert math.isnan(summary.loc[whole, "ppl"])
    assert summary.loc[part, "n"] == 3
    for text in (page, table):
        assert "8 of 8 samples do not count (8 without a finite score)" in text
        assert "1 of 4 samples do not count" in text


@pytest.mark.usefixtures("no_plots")
def test_failed_samples_are_counted_on_the_page(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=4, tasks=("longbench:qasper",)))
    cell, samples = next(iter(run.samples.items()))
    run.samples[cell] = [samples[0].model_copy(update={"status": "failed", "metrics": {}}), *samples[1:]]
    report.write(run, tmp_path / "out")
    assert "1 of 4 samples do not count (1 failed)" in (tmp_path / "out" / "report.html").read_text()


def test_cells_that_are_all_out_of_memory_make_a_report(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=2, models=(FULL,), tasks=("perplexity",)))
    for cell, state in run.cells.items():
        state.status = "oom"
        run.samples.pop(cell, None)
        run.perf[cell].status = "oom"
    summary = report.write(run, tmp_path / "out")
    assert set(summary["status"]) == {"oom"}
    assert "oom" in (tmp_path / "out" / "tables" / "table1-2-perplexity.md").read_text()


def test_times_of_unlike_devices_are_named(folder) -> None:
    run = load(folder)
    assert not any("unlike devices" in hint for hint in hints(Data.of(run)))
    for cell, record in run.perf.items():
        record.device = "GPU A" if run.cells[cell].model == FULL else "GPU B"
    [found] = [hint for hint in hints(Data.of(run)) if "unlike devices" in hint]
    assert f"GPU A: {FULL}" in found
    assert "GPU B: " in found
    assert SHARED in found.partition("GPU B: ")[2]


def test_shares_of_empty_and_cut_answers_come_from_the_records(tmp_path) -> None:
    """Records of earlier versions do not know whether the budget ended an answer."""
    run = write_run(tmp_path, samples=4, models=(FULL,), tasks=("longbench:qasper",))
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    lines[0]["output"]["text"] = " \n"
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = Data.of(load(run)).summary.iloc[0]
    assert row["empty"] == 0.25
    assert "hit_limit" not in row
    for line, hit in zip(lines, [True, False, False, True], strict=False):
        line["output"]["hit_limit"] = hit
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = Data.of(load(run)).summary.iloc[0]
    assert (row["empty"], row["hit_limit"]) == (0.25, 0.5)
    assert row["hit_limit_low"] < 0.5 < row["hit_limit_high"]
