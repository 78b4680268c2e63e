"""A run folder becomes summary, tables and plots whose numbers are those of its samples."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from fixtures.synthetic_run import LENGTHS, MODELS, write_run

from evals import report
from evals.cli.report import main
from evals.errors import UserError
from evals.records.models import Answer, SampleRecord
from evals.report import published
from evals.report.frames import Data
from evals.report.load import load, merge, task_of
from evals.report.paper import overheads, perplexity, variants, views
from evals.report.paper.axes import axes
from evals.report.paper.view_intervals import Scored, view_intervals
from evals.report.plots import ablation, needle, pareto, style
from evals.report.stats import Interval
from evals.report.stats.means import mean_intervals
from evals.report.tables import Table, hints, summary_table
from evals.tasks.common.view import View

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
            for name, value in task_of(record).summarize(samples).items():
                assert summary.loc[cell, name] == pytest.approx(value)
                assert summary.loc[cell, f"{name}_low"] <= value <= summary.loc[cell, f"{name}_high"]
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


def test_a_torn_line_is_left_out_with_a_note(tmp_path, capsys) -> None:
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
        (lambda f: None, "is not a run"),
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
    found = hints(Data(data.run, data.summary))
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


def test_perplexity_table_has_one_column_a_set_and_length(built) -> None:
    table = pd.read_csv(built / "tables" / "table1-2-perplexity.csv").set_index("model")
    summary = pd.read_csv(built / "summary.csv")
    for name in (FULL, SHARED):
        rows = summary[(summary["task"] == "perplexity") & (summary["model"] == name)].set_index("length")
        assert float(table.loc[name, "all 8K"]) == pytest.approx(rows.loc[8192, "ppl"])
        assert float(table.loc[name, "books 16K low"]) == pytest.approx(rows.loc[16384, "ppl/books_low"])
    assert table.loc[FULL, "all 128K"] == "oom"


def test_published_values_stand_beside_measured_ones(tmp_path) -> None:
    write_run(tmp_path, samples=4)
    record = json.loads((tmp_path / "run.json").read_text())
    for cell in record["cells"].values():
        if cell["task"] == "perplexity":
            cell["settings"]["dataset"] = "pg19"
    (tmp_path / "run.json").write_text(json.dumps(record))
    (table,) = perplexity.tables(Data.of(load(tmp_path)))
    text = table.text().set_index("model")
    assert text.loc["SharedLLM (published, table 1)", "PG19 16K"] == "8.15"
    assert text.loc["LLaMA-2-7B (published, table 2)", "PG19 128K"] == "oom"
    assert published.BASE_NOTE in table.notes


@pytest.mark.parametrize(
    ("number", "model", "column", "length", "value"),
    [
        (1, "SharedLLM", "PG19", "100K", 8.24),
        (1, "Activation Beacon", "CodeParrot", "32K", 2.41),
        (2, "CEPE (reproduced, no books3)", "ProofPile", "128K", 2.39),
        (3, "InfLLM", "En.MC", "", 31.44),
        (4, "YaRN-128K", "Code", "32K", 62.73),
    ],
)
def test_published_numbers(number, model, column, length, value) -> None:
    found = published.table(number)
    chosen = found[(found["model"] == model) & (found["column"] == column) & (found["length"] == length)]
    assert chosen["value"].tolist() == [value]


def sharedllm_variants(tmp_path, **changes):
    """A run of three SharedLLM models that differ in the settings given as lists."""
    run = load(write_run(tmp_path, samples=4, models=(SHARED,)))
    base = {"ratios": [16, 8, 4], "lower_layers": 4, "policy": "maxsim", "injection": "bottom"}
    model = run.models.pop(SHARED)
    cells = dict(run.cells)
    run.cells.clear()
    for i in range(3):
        settings = base | {k: v[i] for k, v in changes.items()}
        run.models[f"v{i}"] = model.model_copy(update={"preset": {**model.preset, "settings": settings}})
        for cell, record in cells.items():
            run.cells[f"{cell}{i}"] = record.model_copy(update={"model": f"v{i}"})
            run.samples[f"{cell}{i}"] = run.samples[cell]
            run.perf[f"{cell}{i}"] = run.perf[cell]
    return Data.of(run)


def test_axes_of_sharedllm() -> None:
    found = axes({"ratios": [16, 8, 4], "lower_layers": 4})
    assert (found["beta"], found["height"], found["M"]) == (8, 3, 4)
    assert axes({"ratios": [64, 32, 16, 1]})["beta"] == pytest.approx(1024 / 152, abs=0.01)
    assert axes({"ratios": [1]})["beta"] == 1


def test_ablation_and_overheads(tmp_path) -> None:
    data = sharedllm_variants(tmp_path, lower_layers=[4, 8, 15])
    (table,) = variants.tables(data)
    assert table.frame["variant"].tolist() == ["default", "M=8", "M=15"]
    (overhead,) = overheads.tables(data)
    assert overhead.name == "table9-m"
    assert "at 8K tokens" in overhead.title
    rows = overhead.frame.set_index("variant")
    assert rows.loc["M=16 (published, table 9)", "time (s)"] == 25.85
    names = [name for name, _, _ in ablation.figures(data)]
    assert "ablation-sharedllm-needle" in names


def test_longbench_view_is_the_papers(tmp_path) -> None:
    from evals.tasks.longbench.views import PAPER
    from evals.tasks.longbench.views import views as longbench_views

    run = load(write_run(tmp_path, samples=3, models=(SHARED,)))
    cell = next(c for c, r in run.cells.items() if r.task == "longbench:qasper")
    for i, name in enumerate(PAPER):
        run.cells[f"{cell}{i}"] = run.cells[cell].model_copy(update={"task": f"longbench:{name}"})
        run.samples[f"{cell}{i}"] = [s.model_copy(update={"metrics": {"score": i / 20}}) for s in run.samples[cell]]
    del run.cells[cell]
    tables = {t.name: t for t in views.tables(Data.of(run))}
    row = tables["table4"].frame.iloc[0]
    views_of_scores = {v.id: v.columns for v in longbench_views({name: i / 20 for i, name in enumerate(PAPER)})}
    expected = views_of_scores["longbench-sharedllm"]
    assert row["SD-QA"].estimate == pytest.approx(100 * expected["Single-Doc QA"])
    assert row["Code"].estimate == pytest.approx(100 * expected["Code"])
    assert tables["table4"].text().set_index("model").loc[
        "SharedLLM (published, table 4)", "MD-QA"
    ] == "30.93"  # fmt: skip


def scored(values, groups=None):
    names = groups or [str(i) for i in range(len(values))]
    rows = [
        SampleRecord(cell="c", sample=str(i), group=names[i], metrics={"score": v}, output=Answer(text="", tokens=0))
        for i, v in enumerate(values)
    ]
    return Scored(float(np.mean(values)), "score", rows)


def intervals_of_one_and_both(found):
    """A view of data set `a` alone and of the mean of `a` and `b`."""

    def views(s) -> list[View]:
        return [View("v", "A view", {"one": s["a"], "both": (s["a"] + s["b"]) / 2})]

    [(_, columns)] = view_intervals(views, found)
    return columns


def test_intervals_of_averages_over_data_sets() -> None:
    """A column of one data set has that data set's own interval; a mean of two has the root of their variances."""
    rng = np.random.default_rng(0)
    found = {"a": scored(rng.normal(0.2, 0.1, 40)), "b": scored(rng.normal(0.7, 0.4, 10))}
    views = intervals_of_one_and_both(found)
    assert views["one"] == mean_intervals(found["a"].samples)["score"]
    variances = [np.var([r.metrics["score"] for r in x.samples], ddof=1) / len(x.samples) for x in found.values()]
    assert views["both"].se == pytest.approx(np.sqrt(sum(variances)) / 2, rel=0.05)
    assert views["both"].estimate == pytest.approx((found["a"].score + found["b"].score) / 2)
    parts = np.array(variances) / 4
    df = parts.sum() ** 2 / (parts**2 / [39, 9]).sum()  # Welch and Satterthwaite
    half = scipy.stats.t.ppf(0.975, df) * np.sqrt(parts.sum())
    assert views["both"].high - views["both"].low == pytest.approx(2 * half, rel=0.1)


def test_an_average_has_no_interval_where_one_data_set_has_one_context() -> None:
    found = {"a": scored([0.1, 0.5, 0.9]), "b": scored([0.0, 1.0], groups=["same", "same"])}
    views = intervals_of_one_and_both(found)
    assert np.isnan(views["both"].low)
    assert not np.isnan(views["one"].low)


def test_a_wheel_brings_the_published_values() -> None:
    """A checkout has them in results/published; pyproject copies that folder to where an installed package looks."""
    root = Path(published.__file__).resolve().parents[2]
    copied = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {root / source: root / target for source, target in copied["force-include"].items()} == {
        root / "results" / "published": published.PACKAGED
    }


def test_pareto_front() -> None:
    cost, score = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.4, 0.7, 0.7])
    assert pareto.front(cost, score, True).tolist() == [0, 2]
    assert pareto.front(cost, score, False).tolist() == [0, 1]


def test_lengths_and_looks() -> None:
    assert [style.tokens(n) for n in (512, 8192, 100 * 1024, 1 << 20, 1536)] == ["512", "8K", "100K", "1M", "1.5K"]
    found = style.looks([f"model {i}" for i in range(8)])
    assert len({(k.colour, k.marker) for k in found.values()}) == 8
    six = list(found.values())[:6]
    assert len({k.marker for k in six}) == len({str(k.dashes) for k in six}) == 6


def test_legends_do_not_cover_panels(folder) -> None:
    """Every legend lies above the axes, whatever the names are."""
    from evals.report.plots import figures

    with matplotlib.style.context(style.STYLE):
        for _, _, figure in figures(Data.of(load(folder))):
            figure.draw_without_rendering()
            for legend in figure.legends:
                box = legend.get_window_extent()
                assert all(box.y0 >= ax.get_window_extent().y1 - 1 for ax in figure.axes)
                assert box.x1 <= figure.bbox.width + 1


def test_names_that_look_like_formulas_or_markup_can_be_drawn(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=4, tasks=("longbench:qasper",)))
    strange = "$x^_</svg><script>&--> "
    run.models[strange] = run.models.pop(SHARED)
    for cell in run.cells.values():
        if cell.model == SHARED:
            cell.model = strange
    summary = report.write(run, tmp_path / "out")
    assert strange in set(summary["model"])
    assert not any("<script>" in p.read_text() for p in (tmp_path / "out" / "plots").glob("*.svg"))


def test_summary_table_has_no_empty_columns(folder) -> None:
    frame = summary_table(Data.of(load(folder))).frame
    assert not frame.isna().all().any()
    assert math.isfinite(frame["ttft_s"].dropna().astype(float).sum())


def test_many_depths_are_gathered_in_tenths() -> None:
    few, many = pd.Series([0.0, 12.5, 100.0]), pd.Series([0.0, 9.9, 10.0, *range(11, 20), 99.0, 100.0])
    assert needle.gathered(few).tolist() == few.tolist()
    assert needle.gathered(many).tolist() == [5, 5, *[15] * 10, 95, 95]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_samples_without_a_finite_score_never_take_a_report_down(tmp_path, value) -> None:
    """One cell that holds nothing else, one that holds some; the page and the summary say so."""
    run = load(write_run(tmp_path, samples=4))
    (whole, *_), (part, *_) = ([c for c, r in run.cells.items() if r.task == task] for task in ("perplexity", "needle"))
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


def test_failed_samples_are_counted_on_the_page(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=4, tasks=("longbench:qasper",)))
    sample = next(iter(run.samples.values()))[0]
    sample.status, sample.metrics = "failed", {}
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
