"""Plots: what they show of strange names, legends, axes."""

from __future__ import annotations

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from fixtures.synthetic_run import write_run

from evals import report
from evals.report import words
from evals.report.frames import Data
from evals.report.load import load
from evals.report.plots import needle, pareto, style

FULL, SHARED = "synthetic-full", "synthetic-sharedllm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), samples=10)


def test_pareto_front() -> None:
    cost, score = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.4, 0.7, 0.7])
    assert pareto.front(cost, score, True).tolist() == [0, 2]
    assert pareto.front(cost, score, False).tolist() == [0, 1]


def test_lengths_and_looks() -> None:
    assert [words.tokens(n) for n in (512, 8192, 100 * 1024, 1 << 20, 1536)] == ["512", "8K", "100K", "1M", "1.5K"]
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


def test_many_depths_are_gathered_in_tenths() -> None:
    few, many = pd.Series([0.0, 12.5, 100.0]), pd.Series([0.0, 9.9, 10.0, *range(11, 20), 99.0, 100.0])
    assert needle.gathered(few).tolist() == few.tolist()
    assert needle.gathered(many).tolist() == [5, 5, *[15] * 10, 95, 95]
