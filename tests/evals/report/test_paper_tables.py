"""Tables in the paper's layout: their numbers, the published ones below them, intervals of averages."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from fixtures.synthetic_run import write_run

from evals import report
from evals.records.models import Answer, SampleRecord
from evals.report import published
from evals.report.data import Data
from evals.report.load import load
from evals.report.paper import overheads, perplexity, variants, views
from evals.report.paper.axes import axes
from evals.report.paper.view_intervals import Scored, view_intervals
from evals.report.plots import ablation
from evals.report.stats.clusters import cluster_codes, metric_table
from evals.report.stats.means import mean_intervals
from evals.tasks.common.view import View

FULL, SHARED = "synthetic-full", "synthetic-sharedllm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), samples=10)


@pytest.fixture(scope="module")
def built(folder):
    report.write(load(folder), folder)
    return folder


def test_perplexity_table_has_one_column_a_set_and_length(built) -> None:
    table = pd.read_csv(built / "tables" / "table1-2-perplexity.csv").set_index("model")
    summary = pd.read_csv(built / "summary.csv")
    for name in (FULL, SHARED):
        rows = summary[(summary["task"] == "perplexity") & (summary["model"] == name)].set_index("length")
        assert float(table.loc[name, "all 8K"]) == pytest.approx(rows.loc[8192, "ppl"])
        assert float(table.loc[name, "books 16K low"]) == pytest.approx(rows.loc[16384, "ppl/books_low"])
    assert table.loc[FULL, "all 128K"] == "oom"


def test_published_values_appear_below_measured_ones(tmp_path) -> None:
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


def samples(values, groups=None):
    names = groups or [str(i) for i in range(len(values))]
    return [
        SampleRecord(cell="c", sample=str(i), group=names[i], metrics={"score": v}, output=Answer(text="", tokens=0))
        for i, v in enumerate(values)
    ]


def scored(rows):
    values = metric_table(rows, ["score"])[:, 0]
    return Scored(float(np.mean(values)), values, cluster_codes(rows)[0])


def intervals_of_one_and_both(found):
    """A view of data set `a` alone and of the mean of `a` and `b`."""

    def views(s) -> list[View]:
        return [View("v", "A view", {"one": s["a"], "both": (s["a"] + s["b"]) / 2})]

    [(_, columns)] = view_intervals(views, found)
    return columns


def test_intervals_of_averages_over_data_sets() -> None:
    """A column of one data set has that data set's own interval; a mean of two has the root of their variances."""
    rng = np.random.default_rng(0)
    rows = {"a": samples(rng.normal(0.2, 0.1, 40)), "b": samples(rng.normal(0.7, 0.4, 10))}
    found = {name: scored(mine) for name, mine in rows.items()}
    views = intervals_of_one_and_both(found)
    assert views["one"] == mean_intervals(rows["a"])["score"]
    variances = [np.var([r.metrics["score"] for r in mine], ddof=1) / len(mine) for mine in rows.values()]
    assert views["both"].se == pytest.approx(np.sqrt(sum(variances)) / 2, rel=0.05)
    assert views["both"].estimate == pytest.approx((found["a"].score + found["b"].score) / 2)
    parts = np.array(variances) / 4
    df = parts.sum() ** 2 / (parts**2 / [39, 9]).sum()  # Welch and Satterthwaite
    half = scipy.stats.t.ppf(0.975, df) * np.sqrt(parts.sum())
    assert views["both"].high - views["both"].low == pytest.approx(2 * half, rel=0.1)


def test_an_average_has_no_interval_where_one_data_set_has_one_context() -> None:
    found = {"a": scored(samples([0.0, 0.5, 1.0])), "b": scored(samples([0.0, 1.0], groups=["same", "same"]))}
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
