"""Figure 3 and tables 9 to 12 from a run of the task efficiency; figures name only models that they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.efficiency_run import LENGTHS, METHODS, write_efficiency_run
from fixtures.synthetic_run import write_run
from matplotlib.figure import Figure
from not_empty import not_empty

from evals.report.data import Data
from evals.report.load import load
from evals.report.paper import overheads, requests
from evals.report.paper.tables import paper_tables
from evals.report.plots import by_length, context_use, efficiency, figure3, figures
from evals.report.summary import records
from evals.report.tables import summary_table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data.of(load(write_efficiency_run(tmp_path_factory.mktemp("efficiency"))))


def names(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def only(found: Any) -> Figure:
    [(_, _, figure)] = list(found)
    return figure


def test_ratios_are_to_sharedllm_at_the_same_length(data: Data) -> None:
    rows = figure3.requests(data).set_index(["model", "length"])
    shared, beacon = (rows.loc[(m, 65536), "total_s"] for m in ("sharedllm-7b", "beacon-7b"))
    assert rows.loc[("beacon-7b", 65536), "ratio"] == pytest.approx(beacon / shared)
    assert (rows.loc["sharedllm-7b", "ratio"] == 1).all()


def test_figure_shows_what_was_measured_and_what_the_paper_says(data: Data) -> None:
    figure = only(figure3.figures(data))
    assert names(figure)
    papers = [name for name in names(figure) if name.startswith("the paper: ")]
    assert set(names(figure)) - set(papers) == set(METHODS)
    memory, time, ratio = figure.axes
    measured = {m: sum(data.summary[data.summary["model"] == m]["total_s"].notna()) for m in METHODS}
    assert [len(line.get_xdata()) for line in time.lines[:7]] == list(measured.values())
    assert measured["sharedllm-7b"] == len(LENGTHS)
    assert measured["full-7b"] < len(LENGTHS)
    said = [text.get_text() for text in memory.texts]
    assert said.count("out of memory") == 2
    assert said.count("the paper: out of memory") == 1
    assert sorted(papers) == ["the paper: Activation Beacon / SharedLLM = 2", "the paper: CEPE / SharedLLM = 3"]
    dotted = [line for line in ratio.lines if len(set(line.get_ydata())) == 1 and line.get_ydata()[0] in (2, 3)]
    assert sorted(line.get_ydata()[0] for line in dotted) == [2, 3]


def test_without_sharedllm_there_are_no_ratios(tmp_path: Path) -> None:
    found = Data.of(load(write_efficiency_run(tmp_path, models=("cepe-7b", "full-7b"))))
    assert len(only(figure3.figures(found)).axes) == 2
    [table] = [t for t in paper_tables(found) if t.name == "figure3"]
    assert table.frame["quantity"].tolist().count("time over SharedLLM's") == 2


def test_table_of_figure_3(data: Data) -> None:
    [table] = list(requests.tables(data))
    rows = table.frame.set_index(["model", "quantity"])
    assert list(table.frame.columns) == ["model", "quantity", "8K", "16K", "32K", "64K", "128K", "256K", "paper"]
    assert rows.loc[("yarn-7b-128k", "time of a request (s)"), "128K"] == "oom"
    assert rows.loc[("yarn-7b-128k", "peak memory (GiB)"), "128K"] == pytest.approx(80)
    assert rows.loc[("cepe-7b", "time over SharedLLM's"), "paper"] == 3
    assert rows.loc[("beacon-7b", "time over SharedLLM's"), "paper"] == 2


def test_a_model_that_ran_out_of_memory_while_it_was_loaded(tmp_path: Path) -> None:
    """Such a run knows nothing of the model but its cells."""
    folder = write_efficiency_run(tmp_path)
    meta = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del meta["models"]["full-7b"]
    (folder / "run.json").write_text(json.dumps(meta), encoding="utf-8")
    found = Data.of(load(folder))
    assert "full-7b" in names(only(figure3.figures(found)))
    [table] = [t for t in paper_tables(found) if t.name == "figure3"]
    assert "full-7b" in set(table.frame["model"])


def test_what_one_request_cost_lacks_no_interval(data: Data) -> None:
    assert "too few" not in summary_table(data).markdown()
    assert all(row["measured"] for row in not_empty(records(data.summary)))


def test_models_without_data_are_not_named(tmp_path: Path) -> None:
    missing = ("cepe-7b", "longllama-code-7b")
    found = Data.of(load(write_efficiency_run(tmp_path, pending=missing, stop=65536)))
    for figure in (only(figure3.figures(found)), only(efficiency.figures(found))):
        models = {name for name in names(figure) if not name.startswith("the paper: ")}
        assert models == set(METHODS) - set(missing)
    [table] = list(requests.tables(found))
    assert not set(missing) & set(table.frame["model"])
    assert "128K" not in table.frame


def test_the_same_for_scores(tmp_path: Path) -> None:
    run = load(write_run(tmp_path, samples=4))
    gone = [cell for cell, record in run.cells.items() if record.model == "synthetic-streamingllm"]
    for cell in gone:
        run.cells[cell].status = "pending"
        run.samples.pop(cell)
        run.perf.pop(cell)
    found = Data.of(run)
    for module in (by_length, context_use, efficiency):
        for _, _, figure in not_empty(module.figures(found)):
            assert names(figure)
            assert "synthetic-streamingllm" not in names(figure)


def test_every_quantity_is_drawn_once(data: Data) -> None:
    assert {name for name, _, _ in figures(data)} == {"efficiency", "figure3"}


def test_overheads_compare_whole_requests(tmp_path: Path) -> None:
    run = load(write_efficiency_run(tmp_path, models=("sharedllm-7b", "beacon-7b", "cepe-7b")))
    settings: dict[str, Any] = {"lower_layers": 4, "ratios": [16, 8, 4], "policy": "last_token"}
    for name, changed in zip(run.models, ({}, {"policy": "right"}, {"lower_layers": 8}), strict=True):
        run.models[name].preset.update(method="sharedllm", settings=settings | changed)
    found = Data.of(run)
    tables = {table.name: table.frame.set_index("variant") for table in overheads.tables(found)}
    assert set(tables) == {"table9-m", "table12-policy"}
    measured = found.summary[found.summary["length"] == 8192].set_index("model")["total_s"]
    assert tables["table9-m"].loc["M=8", "time (s)"] == pytest.approx(measured["cepe-7b"])
    assert tables["table9-m"].loc["M=8 (published, table 9)", "time (s)"] == 16.81
    assert tables["table12-policy"].loc["policy=right", "time (s)"] == pytest.approx(measured["beacon-7b"])
    assert tables["table12-policy"].loc["query-aware search (published, table 12)", "time (s)"] == "+15 %"
