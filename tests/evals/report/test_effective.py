"""Effective length: the rule, its interval, and where there is no number."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from benchmark_scripts import load as script
from fixtures.synthetic_run import write_run
from scipy.stats import beta, kstest

from evals.cli.report import main
from evals.report.data import Data
from evals.report.effective import Effective, effective_lengths, effective_table
from evals.report.load import load
from evals.report.stats.bootstrap import drawn_means
from evals.report.stats.interval import FEWEST

SHARED = "synthetic-sharedllm"
LENGTHS = (8192, 16384, 32768, 65536, 131072)


def measured(
    folder, shares, samples: int = 40, chance: float | None = None, lost: int | None = None, per: int | None = None
):
    """A run whose needle has the given share of right answers at each length. lost: a length out of memory. per:
    questions on each context, spread so that the contexts differ as little as they can.
    """
    write_run(folder, samples=samples, models=(SHARED,), tasks=("needle", "perplexity"))
    meta = json.loads((folder / "run.json").read_text())
    length_of = {name: cell["length"] for name, cell in meta["cells"].items() if cell["task"] == "needle"}
    rows, kept, seen = [], [], dict.fromkeys(length_of, 0)
    for line in (folder / "samples.jsonl").read_text().splitlines():
        rows.append(json.loads(line))
    for row in rows:
        length = length_of.get(row["cell"])
        if row["kind"] == "sample" and length is not None:
            if length == lost or length not in dict(zip(LENGTHS, shares, strict=False)):
                continue
            right = seen[row["cell"]] < round(samples * shares[LENGTHS.index(length)])
            seen[row["cell"]] += 1
            row["metrics"] = {"exact_match": float(right)} | ({} if chance is None else {"chance": chance})
            row["group"] = str((seen[row["cell"]] - 1) % (samples // per)) if per else ""
        kept.append(row)
    for name, length in length_of.items():
        if length == lost:
            meta["cells"][name]["status"] = "oom"
        elif LENGTHS.index(length) >= len(shares):
            del meta["cells"][name]
            kept = [row for row in kept if row["cell"] != name]
    (folder / "run.json").write_text(json.dumps(meta))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return Data.of(load(folder))


def effective(folder, shares, **fields) -> Effective:
    [found] = effective_lengths(measured(folder, shares, **fields))
    return found  # perplexity, better when lower, has none


def test_it_is_the_longest_length_up_to_which_the_share_is_kept(tmp_path) -> None:
    shares = (1.0, 0.95, 0.85, 0.5, 0.9)  # what comes after a length that fails does not count
    data = measured(tmp_path, shares)
    [found] = effective_lengths(data)
    assert (found.model, found.task, found.shortest, found.score) == (SHARED, "needle", 8192, 1.0)
    assert (found.length, found.longest, found.remark) == (32768, 131072, "")
    assert found.low <= 32768 <= found.high < 65536
    assert effective_lengths(data, 0.5)[0].length == 131072
    assert effective_lengths(data, 0.96)[0].length == 8192
    assert effective_lengths(data) == effective_lengths(data)


def test_the_longest_measured_length_is_a_lower_bound(tmp_path) -> None:
    found = effective(tmp_path, (1.0, 1.0, 1.0, 1.0, 1.0))
    assert (found.length, found.high) == (131072, 131072)
    assert found.remark == "at least: no longer length was measured"


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_a_length_that_was_not_run_to_its_end_is_not_judged(tmp_path, status) -> None:
    measured(tmp_path, (1.0, 0.95, 0.1))
    meta = json.loads((tmp_path / "run.json").read_text())
    [state] = [cell for cell in meta["cells"].values() if cell["task"] == "needle" and cell["length"] == 32768]
    state["status"] = status
    (tmp_path / "run.json").write_text(json.dumps(meta))
    [found] = effective_lengths(Data.of(load(tmp_path)))
    assert (found.length, found.longest) == (16384, 16384)


def test_answers_before_memory_ran_out_are_no_score_of_a_length(tmp_path) -> None:
    """What fitted into memory may be the shortest rows. A cold pass alone that ran out leaves all answers."""
    measured(tmp_path, (1.0, 1.0, 1.0))
    meta = json.loads((tmp_path / "run.json").read_text())
    [cell] = [name for name, state in meta["cells"].items() if state["task"] == "needle" and state["length"] == 32768]
    meta["cells"][cell]["status"] = "oom"
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    (tmp_path / "samples.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows if row["cell"] != cell or row.get("sample", "") < "needle-20")
    )
    (tmp_path / "run.json").write_text(json.dumps(meta))
    [found] = effective_lengths(Data.of(load(tmp_path)))
    assert (found.length, found.longest) == (16384, 16384)
    meta["cells"][cell]["status"] = "ok"
    (tmp_path / "run.json").write_text(json.dumps(meta))
    for row in rows:
        if row["cell"] == cell and row["kind"] == "perf":
            row["status"] = "oom"
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [found] = effective_lengths(Data.of(load(tmp_path)))
    assert (found.length, found.longest) == (32768, 32768)


def test_out_of_memory_ends_it(tmp_path) -> None:
    found = effective(tmp_path, (1.0, 1.0, 1.0, 1.0, 1.0), lost=65536)
    assert (found.length, found.high, found.longest) == (32768, 32768, 131072)
    assert found.remark == ""


@pytest.mark.parametrize(
    ("shares", "fields", "reason"),
    [
        ((0.0, 0.0, 0.0), {}, "the score at 8192 is not shown to be above 0.05"),
        ((0.3, 0.3, 0.3), {"chance": 0.25}, "the score at 8192 is not shown to be above chance (0.25)"),
        ((0.1, 0.1, 0.1), {}, "the score at 8192 is not shown to be above 0.05"),
        ((0.15, 0.15, 0.1), {"samples": 20}, "the score at 8192 is not shown to be above 0.05"),
        ((0.9,), {}, "one length only"),
    ],
)
def test_where_there_is_no_number_a_reason_stands_in_its_place(tmp_path, shares, fields, reason) -> None:
    found = effective(tmp_path, shares, **fields)
    assert (found.length, found.low, found.high, found.remark) == (None, None, None, reason)
    assert str(found) == f"none: {reason}"
    if len(shares) > 1:
        [table] = effective_table(Data.of(load(tmp_path)))
        assert f"| \u2013 |  |  | 32768 | {reason} |" in table.markdown()
        assert table.numbers()["effective length"].isna().all()


def test_few_contexts_are_judged_by_the_interval_of_the_summary(tmp_path) -> None:
    data = measured(tmp_path, (0.15, 0.15, 0.1), samples=20, per=4)  # 3 of 20 right, in three of five contexts
    [row] = data.scores[(data.scores["length"] == 8192) & (data.scores["task"] == "needle")].to_dict("records")
    assert row["low"] < 0.05 < np.quantile(drawn_means(np.array([0.25, 0.25, 0.25, 0, 0]), np.arange(5), "x"), 0.025)
    [found] = effective_lengths(data)
    assert found.length is None and "not shown to be above 0.05" in found.remark


@pytest.mark.parametrize(("share", "shown"), [(0.15, False), (0.9, True)])
def test_few_contexts_of_several_tasks_are_judged_by_the_intervals_of_the_summary(tmp_path, share, shown) -> None:
    data = measured(tmp_path, (share, share), samples=20, per=4)
    one = data.summary[data.summary["task"] == "needle"]
    both = Data(data.run, pd.concat([one.assign(task="needle:a"), one.assign(task="needle:b")]))
    [found] = [e for e in effective_lengths(both) if e.task == "needle (2 tasks)"]
    assert (found.length is not None) == shown


def test_few_samples_give_no_interval(tmp_path) -> None:
    found = effective(tmp_path, (1.0, 1.0, 0.0), samples=FEWEST - 1)
    assert (found.length, found.low, found.high) == (16384, None, None)
    assert "too few samples for an interval (9)" in found.remark


def test_a_benchmark_of_several_tasks_has_the_length_of_its_mean(tmp_path) -> None:
    data = measured(tmp_path, (1.0, 0.9, 0.8))
    one = data.summary[data.summary["task"] == "needle"]
    both = Data(data.run, pd.concat([one.assign(task="needle:a"), one.assign(task="needle:b")]))
    found = {e.task: e for e in effective_lengths(both)}
    assert set(found) == {"needle:a", "needle:b", "needle (2 tasks)"}
    assert found["needle (2 tasks)"].length == 16384


def test_draws_for_yes_no_scores_are_jeffreys_posterior() -> None:
    for right in (0, 3, 10):
        values = np.array([1.0] * right + [0.0] * (10 - right))
        assert kstest(drawn_means(values, np.arange(10), "cell"), beta(right + 0.5, 10 - right + 0.5).cdf).pvalue > 0.01
    clustered = drawn_means(np.repeat([1.0, 0.0], 50), np.repeat([0, 1], 50), "cell")
    assert clustered.std() > 0.2  # two contexts, not a hundred samples


@pytest.mark.usefixtures("no_plots")
def test_the_commands_show_it(tmp_path, capsys) -> None:
    data = measured(tmp_path, (1.0, 0.95, 0.85, 0.5, 0.9))
    [table] = effective_table(data, 0.9)
    assert "90 %" in table.notes[0]
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path), "--threshold", "0.9"])
    assert not done.value.code
    assert "## Effective length" in (tmp_path / "summary.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "below 90 % of its own score" in page
    assert "85 %" not in page
    assert (tmp_path / "tables" / "effective-length.csv").read_text().splitlines()[1].split(",")[4] == "16384"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path), str(tmp_path), "--model", SHARED, "--threshold", "0.5"])
    out = capsys.readouterr().out
    assert "Effective length: the score stays at 50 %" in out
    assert json.loads(out.splitlines()[-1])["effective_lengths"][0]["length"] == 131072


def test_the_script_that_measures_its_coverage_runs() -> None:
    covered, right = script("effective_length_coverage").simulate(20, 1, 40, 0)
    assert 0.8 < covered <= 1
    assert 0.2 < right < covered
