"""Plots: what they show of strange names, legends, axes."""

from __future__ import annotations

import json

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from fixtures.synthetic_run import LENGTHS, write_run
from matplotlib.figure import Figure
from not_empty import not_empty

from evals import report
from evals.report import words
from evals.report.data import Data
from evals.report.load import load
from evals.report.paper import perplexity
from evals.report.plots import by_length, needle, pareto, style
from evals.report.plots.looks import family, looks
from evals.report.stats import Interval

FULL, SHARED = "synthetic-full", "synthetic-sharedllm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), samples=10)


def test_pareto_front() -> None:
    cost, score = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.4, 0.7, 0.7])
    assert pareto.front(cost, score, True).tolist() == [0, 2]
    assert pareto.front(cost, score, False).tolist() == [0, 1]


def test_lengths() -> None:
    assert [words.tokens(n) for n in (512, 8192, 100 * 1024, 1 << 20, 1536)] == ["512", "8K", "100K", "1M", "1.5K"]


def test_a_method_looks_the_same_in_every_run() -> None:
    one = looks({"full-135m": "full", "sharedllm-135m": "sharedllm", "sharedllm-135m-paper": "sharedllm"})
    other = looks({"sharedllm-7b": "sharedllm", "snapkv-7b": "kvpress", "full-7b": "full"})
    assert one["full-135m"] == other["full-7b"]
    assert one["sharedllm-135m"] == other["sharedllm-7b"]
    assert one["sharedllm-135m-paper"] != one["sharedllm-135m"]
    again = looks({"mine": "mine", "full-7b": "full"})
    assert again["mine"] == looks({"mine": "mine"})["mine"]
    assert again["full-7b"] == one["full-135m"]


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_figures_have_no_score_of_a_cell_that_was_not_run_to_its_end(tmp_path, status) -> None:
    write_run(tmp_path, samples=10)
    before = Data.of(load(tmp_path)).scores
    meta = json.loads((tmp_path / "run.json").read_text())
    cell = next(
        c for c in meta["cells"].values() if c["model"] == FULL and c["task"] == "needle" and c["length"] == 8192
    )
    cell["status"] = status
    (tmp_path / "run.json").write_text(json.dumps(meta))
    data = Data.of(load(tmp_path))
    after = data.scores
    ended = (after["model"] != FULL) | (after["task"] != "needle") | (after["length"] != 8192)
    shown = ["score", "low", "high"]
    assert before.loc[~ended, shown].notna().all(axis=None)
    assert after.loc[~ended, shown].isna().all(axis=None)
    pd.testing.assert_frame_equal(after.loc[ended, shown], before.loc[ended, shown])
    assert set(data.summary.index) - set(data.ended.index) >= set(after.index[~ended])
    [panel] = [ax for name, _, f in needle.figures(data) if "depth" in name for ax in f.axes if ax.get_title() == FULL]
    shown = np.ma.filled(panel.images[0].get_array().astype(float), np.nan)
    assert np.isnan(shown[:, 0]).all()
    assert not np.isnan(shown[:, 1]).any()


def test_the_family_is_the_longest_name_that_fits() -> None:
    names = {
        "retrieval-embedding-4k-135m": "retrieval-embedding",
        "retrieval-4k-135m": "retrieval",
        "snapkv-0.9-135m": "snapkv",
        "yarn-7b-128k": "yarn",
        "sharedllm-135m-paper": "sharedllm-paper",
        "longllama-code-7b": "longllama",
        "sharedllm-7b beta=64": "sharedllm",
        "llmlingua2-7b": "llmlingua2",
    }
    assert {name: family(name, "") for name in names} == names
    assert family("own-name", "streaming_llm") == "streamingllm"


def test_no_two_models_of_a_run_look_the_same() -> None:
    found = looks({f"sharedllm-7b M={i}": "sharedllm" for i in range(16)} | {f"model {i}": "" for i in range(30)})
    assert len({(k.colour, k.marker) for k in found.values()}) == 46


def test_a_broken_model_stands_at_the_edge_and_the_axis_is_for_the_others(folder) -> None:
    data = Data.of(load(folder))
    rows = data.scores[data.scores["task"] == "perplexity"].reset_index(drop=True)
    worst = rows["model"] == FULL
    rows.loc[worst, ["score", "low", "high"]] = rows.loc[worst, ["score", "low", "high"]] * 1000
    ax = Figure().subplots()
    by_length.panel(ax, rows, looks(data.methods))
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[1] < 100
    assert sum(text.get_text().replace(",", "").isdigit() for text in ax.texts) == rows[worst]["score"].notna().sum()


def test_legends_do_not_cover_panels(folder) -> None:
    """Every legend lies above the axes, whatever the names are."""
    from evals.report.plots import figures

    with matplotlib.style.context(style.STYLE):
        drawn = [figure for _, _, figure in figures(Data.of(load(folder)))]
        for figure in drawn:
            figure.draw_without_rendering()
        for figure, legend in not_empty((one, legend) for one in drawn for legend in one.legends):
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
    assert not any("<script>" in p.read_text() for p in not_empty((tmp_path / "out" / "plots").glob("*.svg")))


def test_many_depths_are_gathered_in_tenths() -> None:
    few, many = pd.Series([0.0, 12.5, 100.0]), pd.Series([0.0, 9.9, 10.0, *range(11, 20), 99.0, 100.0])
    assert needle.gathered(few).tolist() == few.tolist()
    assert needle.gathered(many).tolist() == [5, 5, *[15] * 10, 95, 95]


def test_answers_before_memory_ran_out_are_in_no_figure_and_no_table_of_the_paper(tmp_path) -> None:
    """A figure cannot say that it rests on a part of them."""
    run = load(write_run(tmp_path, samples=4))
    for state in run.cells.values():
        if state.model == SHARED and state.length == LENGTHS[0]:
            state.status = "oom"
    data, rest = Data.of(run), set(LENGTHS[1:])
    scores = data.scores[(data.scores["model"] == SHARED) & data.scores["score"].notna()]
    hidden = needle.grid(data, data.ended[data.ended["task"] == "needle"])
    for task in ("needle", "perplexity"):
        assert set(scores.loc[scores["task"] == task, "length"]) == rest
    assert set(hidden.loc[hidden["model"] == SHARED, "length"]) == rest
    [table] = perplexity.tables(data)
    row = table.frame.set_index("model").loc[SHARED]
    assert row["all 8K"] == "oom"
    assert isinstance(row["all 16K"], Interval)
