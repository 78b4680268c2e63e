"""Who is best where: the tests behind the matrices and the verdict."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from fixtures.synthetic_run import write_run
from not_empty import not_empty

from evals.report import compare, matrix
from evals.report.contests import Column, Contest, contests
from evals.report.data import Data
from evals.report.digest import Comparable, Digest
from evals.report.findings import findings, verdict
from evals.report.gain import ContextUse
from evals.report.load import load
from evals.report.stats.interval import Interval

FULL, SHARED, TRUNCATED = "synthetic-full", "synthetic-sharedllm", "synthetic-truncated"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data.of(load(write_run(tmp_path_factory.mktemp("run"), samples=20)))


def test_differences_are_those_of_compare(data: Data) -> None:
    """Two models of a run: one comparison, whether the command or the page makes it."""
    found, _ = compare.compare(compare.choose([data.run], [FULL, SHARED]))
    theirs = {(d.task, d.length): d for d in found}
    for contest in not_empty(contests(data)):
        for (model, column), mine in contest.against(FULL).items():
            if model == SHARED:
                other = theirs[column.task, column.length]
                tried = contest.tried(FULL, SHARED, column)
                assert tried is not None
                assert mine.difference == pytest.approx(other.difference)
                assert tried.test.p == pytest.approx(other.p)


def test_an_interval_leaves_out_0_exactly_where_the_adjusted_test_shows_a_difference(data: Data) -> None:
    seen = Counter()
    for contest in contests(data):
        for base in contest.models:
            for difference in contest.against(base).values():
                if not np.isnan(difference.low):
                    shown = difference.low > 0 or difference.high < 0
                    assert shown == (difference.p <= 0.05)
                    seen[shown] += 1
    assert seen[True]
    assert seen[False]


def made(scores: np.ndarray, ids: list[int] | None = None) -> Digest:
    """The digest of a cell whose samples have these scores, each with a context of its own."""
    places = np.array(ids if ids is not None else range(len(scores)), dtype=np.int64)
    mean = Interval(float(scores.mean()), 0.0, 1.0)
    codes = np.arange(len(scores), dtype=np.int64)
    return Digest(
        total=len(scores), left_out=Counter(), seconds=0.0, n=len(scores), groups=len(scores),
        intervals={"score": mean}, use=ContextUse({}, 0, None), counted=scores, counted_codes=codes, values=scores,
        codes=codes, chance=0.0, depths=np.empty((0, 2)), comparable=Comparable(places, places, 0),
        tokens=np.empty(0), cut=0, skipped=0,
    )  # fmt: skip


class Cells:
    """A run that has digests alone."""

    def __init__(self, cells: dict[str, Digest]) -> None:
        self.cells = cells

    def digest(self, cell: str) -> Digest:
        return self.cells[cell]


def contest(scores: dict[str, np.ndarray]) -> Contest:
    column = Column("task", 8192, "score", True, "{}", 1)
    run = Cells({model: made(values) for model, values in scores.items()})
    return Contest(run, {(model, column): model for model in scores})  # type: ignore[arg-type]


def test_a_best_model_is_named_by_chance_in_one_of_twenty_cases_at_most() -> None:
    """Six equal models of 40 questions: the first of them is called better than every other in 5 % at most."""
    rng, named, trials = np.random.default_rng(0), 0, 150
    for _ in range(trials):
        found = contest({f"m{i}": (rng.random(40) < 0.5).astype(float) for i in range(6)})
        named += any(best.shown for best in found.best.values())
    assert named / trials <= 0.05


def test_a_model_that_is_better_than_every_other_is_named() -> None:
    rng = np.random.default_rng(0)
    scores = {f"m{i}": (rng.random(60) < 0.3).astype(float) for i in range(4)} | {"good": np.ones(60)}
    [best] = contest(scores).best.values()
    assert best.model == "good"
    assert best.shown
    assert best.p < 1e-6


def test_a_model_that_only_beats_some_is_not_named() -> None:
    scores = {"a": np.ones(40), "b": np.ones(40), "c": np.zeros(40)}
    [best] = contest(scores).best.values()
    assert not best.shown
    assert {best.model, best.second} == {"a", "b"}


def test_models_that_were_asked_other_questions_are_not_compared() -> None:
    found = contest({"a": np.ones(40), "b": np.zeros(40)})
    other = made(np.zeros(40), ids=list(range(100, 140)))
    found.run.cells["b"] = other  # type: ignore[index,assignment]
    [column] = found.columns
    assert found.tried("a", "b", column) is None
    assert found.against("a") == {}
    assert not found.best[column].shown


def test_tasks_of_a_benchmark_at_one_length_share_a_matrix(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=4, tasks=("needle", "longbench:qasper")))
    for cell, state in list(run.cells.items()):
        if state.task == "longbench:qasper":
            again = state.model_copy(update={"task": "longbench:multi_news"})
            run.meta.cells[f"{cell}0"] = again
            run.samples[f"{cell}0"] = run.samples[cell]
    titles = {c.title: [column.task for column in c.columns] for c in contests(Data.of(run))}
    assert titles["longbench"] == ["longbench:qasper", "longbench:multi_news"]
    assert len(titles["needle"]) == 5


def test_the_matrix_has_every_cell_and_marks_only_what_is_shown(data: Data) -> None:
    found = contests(data)
    for contest_, shown in zip(found, matrix.matrices(found), strict=True):
        assert list(shown["rows"]) == contest_.models
        for place, column in enumerate(contest_.columns):
            best = contest_.best.get(column)
            marked = [model for model, cells in shown["rows"].items() if cells[place] and cells[place].get("best")]
            assert marked == ([best.model] if best and best.shown else [])
    lost = matrix.matrices(found)[0]["rows"][FULL][-1]
    assert lost["status"] == "oom"
    assert "score" not in lost


def test_differences_beyond_the_limit_are_left_out(data: Data, monkeypatch) -> None:
    monkeypatch.setattr(matrix, "MOST_DIFFERENCES", 100)
    first, *others = matrix.matrices(contests(data))
    assert first["against"]
    assert not any(other["against"] for other in others)


def test_chance_is_shown_where_it_is_known(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=4, tasks=("longbench:qasper",)))
    assert matrix.matrices(contests(Data.of(run)))[0]["chance"] is None
    for state in run.cells.values():
        state.task, state.metric = "longbench-v2", "accuracy"
        state.settings = {}
    run._digests.clear()
    assert matrix.matrices(contests(Data.of(run)))[0]["chance"] == [0.25]


def test_the_verdict_says_what_the_tests_show(data: Data) -> None:
    found = contests(data)
    said = {f.title: " ".join(f.sentences) for f in findings(data, found)}
    shown = [b for contest_ in found for b in contest_.best.values() if b.shown]
    columns = sum(len(contest_.best) for contest_ in found)
    assert f"{columns} combinations of task and length" in verdict(found)
    assert shown
    assert f"{shown[0].model} is better" in verdict(found) or f"{shown[0].model} in" in verdict(found)
    assert re.search(rf"At \d+K {FULL}, .* fall below 85 % of their own scores at 8K\.", said["needle"])
    assert "No model reaches 2 times its own perplexity at 8K." in said["perplexity"]
    assert "synthetic-full runs out of memory" in said["cost"]


def test_too_few_samples_are_not_called_a_low_score(tmp_path) -> None:
    data = Data.of(load(write_run(tmp_path, samples=1, models=(FULL,), tasks=("needle",))))
    [said] = (" ".join(f.sentences) for f in findings(data, contests(data)) if f.title == "needle")
    assert f"At 8K {FULL} is not shown to score above chance, so where it breaks is not judged." in said


def test_one_model_has_nobody_to_beat(tmp_path) -> None:
    data = Data.of(load(write_run(tmp_path, samples=10, models=(TRUNCATED,), tasks=("needle",))))
    assert verdict(contests(data)).startswith("No two models have scores")
    assert [f.title for f in findings(data, contests(data))] == ["needle"]
