"""What a score owes to the context: the numbers, the mark, and the comparison of two models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.synthetic_run import write_run
from not_empty import not_empty

from evals.report import compare
from evals.report.data import Data
from evals.report.hints import context_hints
from evals.report.load import Run, load
from evals.report.page import write_page
from evals.report.stats.paired_tests import paired_scores
from evals.report.summary import records
from evals.report.tables import summary_table
from evals.report.verdicts import verdicts

STREAM, SHARED = "synthetic-streamingllm", "synthetic-sharedllm"


def with_controls(folder, none: dict[str, float], samples: int = 24) -> Run:
    """A run in which the needle was asked with other contexts and without: none is found with another, and a share of
    those that were found, by model, without any.
    """
    write_run(folder, samples=samples, models=(STREAM, SHARED), tasks=("needle", "perplexity"))
    meta = json.loads((folder / "run.json").read_text())
    for cell in meta["cells"].values():
        if cell["task"] == "needle":
            cell["settings"] = {"context": ["own", "other", "none"]}
    (folder / "run.json").write_text(json.dumps(meta))
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    added = []
    for row in rows:
        cell = meta["cells"][row["cell"]]
        if row["kind"] != "sample" or cell["task"] != "needle":
            continue
        row["group"] = row["sample"]
        kept = int(row["sample"].rpartition("-")[2]) < none[cell["model"]] * samples
        for control, factor in (("other", 0.0), ("none", float(kept))):
            metrics = {name: factor * value for name, value in row["metrics"].items()}
            added.append({**row, "sample": f"{row['sample']}-{control}", "metrics": metrics, "control": control})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *added]))
    return load(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return with_controls(tmp_path_factory.mktemp("run"), {STREAM: 1.0, SHARED: 0.0})


def test_the_score_is_that_of_the_own_context_and_the_gain_is_paired(run) -> None:
    rows = {(r["model"], r["task"], r["length"]): r for r in records(Data.of(run).summary)}
    for (model, task, _), row in not_empty(rows.items()):
        if task == "perplexity":
            assert "gain" not in row["metrics"]
            continue
        own, other = (
            np.array([s.metrics["exact_match"] for s in run.scored(row["cell"], control)])
            for control in ("own", "other")
        )
        assert row["n"] == row["gain_n"] == len(own) == 24
        assert row["metrics"]["exact_match"] == pytest.approx(own.mean())
        assert row["metrics"]["exact_match_other"] == other.mean() == 0
        assert row["metrics"]["gain"] == pytest.approx(own.mean())
        low, high = paired_scores(other, own, np.arange(24)).limits()
        assert row["intervals"]["gain"] == pytest.approx([low, high])
        assert row["tests_context"] == (model == SHARED and own.sum() > 3)  # McNemar: four against none


def test_a_score_that_needs_no_context_is_marked_everywhere(run, tmp_path) -> None:
    data = Data.of(run)
    hints = [hint for hint in context_hints(data) if "8192" in hint]
    assert len(hints) == 1
    assert STREAM in hints[0]
    assert SHARED not in hints[0]
    assert "does not test the context" in hints[0]
    assert hints[0] in summary_table(data).markdown()
    write_page(data, [], [], tmp_path / "report.html")
    assert "does not test the context" in (tmp_path / "report.html").read_text()


def test_compare_tests_the_gains_of_two_models_too(run) -> None:
    found, refused = compare.compare(compare.choose([run], [STREAM, SHARED]))
    gains = {d.length: d for d in found if d.metric == "gain"}
    scores = {d.length: d for d in found if d.metric == "exact_match"}
    assert not refused
    assert gains.keys() == scores.keys()
    for length, d in not_empty(gains.items()):  # nothing is found with another context, so the gains are the scores
        assert (d.first, d.second) == pytest.approx((scores[length].first, scores[length].second))
    assert len(found) == len({(d.task, d.length, d.metric) for d in found})
    assert "gain" in verdicts(found, refused)


def test_samples_without_another_context_are_counted(tmp_path) -> None:
    with_controls(tmp_path, {STREAM: 0.0, SHARED: 0.0})
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    kept = [line for line in lines if not json.loads(line).get("sample", "").endswith(("-3-other", "-4-other"))]
    (tmp_path / "samples.jsonl").write_text("\n".join(kept) + "\n")
    assert any("gain rests on 22 of 24 samples" in hint for hint in context_hints(Data.of(load(tmp_path))))


def test_too_few_samples_to_show_anything_mark_nothing(tmp_path) -> None:
    data = Data.of(with_controls(tmp_path, {STREAM: 0.0, SHARED: 0.0}, samples=3))
    assert data.summary["gain_n"].max() == 3
    assert data.summary["tests_context"].isna().all()
    assert context_hints(data) == []
