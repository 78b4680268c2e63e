"""Paired comparison of two models: verdicts, tests and refusals, through the command and the functions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
from fixtures.synthetic_run import write_run
from not_empty import not_empty

from evals.cli.report import main
from evals.errors import UserError
from evals.report import compare
from evals.report.load import load
from evals.report.verdicts import verdicts

FULL, SHARED, STREAM = "synthetic-full", "synthetic-sharedllm", "synthetic-streamingllm"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("run"), samples=40))


def change(folder, edit):
    """Rewrite the records of a run with `edit(record)`."""
    file = folder / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        edit(row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(folder)


def differences(pairs):
    found, refused = compare.compare(pairs)
    return {(d.task, d.length): d for d in found}, refused


def test_a_clear_difference_is_shown_and_its_direction_follows_the_metric(run) -> None:
    found, refused = differences(compare.choose([run], [STREAM, SHARED]))
    perplexity = found["perplexity", 8192]
    assert perplexity.difference < 0
    assert perplexity.p_holm < 0.05
    assert perplexity.verdict == f"{SHARED} is better"
    assert perplexity.low <= perplexity.difference <= perplexity.high < 0
    assert found["longbench:qasper", None].verdict == f"{SHARED} is better"
    assert not refused


def test_swapping_the_models_mirrors_the_result(run) -> None:
    ahead, _ = differences(compare.choose([run], [STREAM, SHARED]))
    back, _ = differences(compare.choose([run], [SHARED, STREAM]))
    for key, d in not_empty(ahead.items()):
        assert d.difference == pytest.approx(-back[key].difference)
        assert d.p == pytest.approx(back[key].p)


def test_a_model_against_itself_shows_nothing(run) -> None:
    found, _ = differences(compare.choose([run, run], [SHARED, SHARED]))
    for d in not_empty(found.values()):
        assert d.difference == 0
        assert d.p == 1.0
        assert d.verdict == "no difference shown"


def test_independent_yes_no_scores_use_mcnemar_clustered_ones_do_not(run, tmp_path) -> None:
    clustered, _ = differences(compare.choose([run], [STREAM, SHARED]))
    assert clustered["needle", 8192].test == "t over groups"
    single = change(write_run(tmp_path, samples=40), lambda r: r.update(group=""))
    independent, _ = differences(compare.choose([single], [STREAM, SHARED]))
    d = independent["needle", 8192]
    rows = {m: {} for m in (STREAM, SHARED)}
    for cell, record in single.cells.items():
        if record.task == "needle" and record.length == 8192 and record.model in rows:
            rows[record.model] = {s.sample: s.metrics["exact_match"] for s in single.scored(cell)}
    gains = sum(rows[SHARED][s] > rows[STREAM][s] for s in rows[SHARED])
    losses = sum(rows[SHARED][s] < rows[STREAM][s] for s in rows[SHARED])
    z = (gains - losses) / math.sqrt(gains + losses)
    assert d.test == "McNemar"
    assert d.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)))


def test_holm_covers_all_lines(run) -> None:
    found, _ = differences(compare.choose([run], [STREAM, SHARED]))
    raw = sorted(d.p for d in found.values())
    assert min(d.p_holm for d in found.values()) == pytest.approx(min(1.0, raw[0] * len(raw)))
    assert all(d.p_holm >= d.p for d in found.values())


def test_the_interval_leaves_out_zero_exactly_where_a_verdict_is_given(tmp_path) -> None:
    for samples in (4, 6, 20, 60):
        small = load(write_run(tmp_path / str(samples), samples=samples))
        for pair in ([STREAM, SHARED], [FULL, SHARED]):
            for d in not_empty(differences(compare.choose([small], pair))[0].values()):
                shown = d.verdict != "no difference shown"
                assert shown == (d.p_holm <= 0.05) == (not d.low <= 0 <= d.high)


def test_one_group_shows_nothing_and_says_why(tmp_path) -> None:
    single = change(write_run(tmp_path, samples=4), lambda r: r.update(group="one document"))
    found, refused = compare.compare(compare.choose([single], [STREAM, SHARED]))
    assert all(
        d.verdict == "no difference shown" and math.isnan(d.low) and math.isinf(d.smallest) for d in not_empty(found)
    )
    assert "too few groups" in verdicts(found, refused)


def test_identical_scores_are_not_too_few_groups(run) -> None:
    found, refused = compare.compare(compare.choose([run, run], [SHARED, SHARED]))
    assert "too few groups" not in verdicts(found, refused)
    needle = next(d for d in found if d.task == "needle")
    assert needle.low < 0 < needle.high
    assert math.isfinite(needle.smallest)


def spoil(value):
    def edit(row) -> None:
        if row["kind"] == "sample" and row["metrics"]:
            row["metrics"] = dict.fromkeys(row["metrics"], value)

    return edit


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_wins(run, tmp_path, value) -> None:
    broken = change(write_run(tmp_path, samples=40), spoil(value))
    with pytest.raises(UserError, match="finite"):
        compare.compare(compare.choose([run, broken], [STREAM, SHARED]))


def test_pairs_without_a_finite_score_are_left_out(run, tmp_path) -> None:
    hit = []

    def edit(row) -> None:
        if row["kind"] == "sample" and row["sample"] == "longbench:qasper-3":
            row["metrics"] = {"score": math.nan}
            hit.append(row)

    broken = change(write_run(tmp_path, samples=40), edit)
    found, _ = differences(compare.choose([run, broken], [STREAM, SHARED]))
    assert hit
    assert found["longbench:qasper", None].n == 39
    assert all(math.isfinite(d.difference) for d in found.values())


def test_the_interval_of_a_mean_difference_is_the_paired_one(run) -> None:
    """Pairing must take out what both models share: far narrower than two independent intervals."""
    found, _ = differences(compare.choose([run], [STREAM, SHARED]))
    d = found["perplexity", 16384]
    cells = {r.model: c for c, r in run.cells.items() if (r.task, r.length) == ("perplexity", 16384)}
    own = [
        np.array([s.metrics["nll"] for s in run.scored(cells[m]) if s.meta["control"] == "own"])
        for m in (STREAM, SHARED)
    ]
    unpaired = math.sqrt(sum(o.var(ddof=1) / len(o) for o in own)) * math.exp(own[0].mean())
    z = scipy.stats.norm.isf((1 - d.confidence) / 2)
    assert (d.high - d.low) / (2 * z) < unpaired / 2


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda r: r["prompt"].update(head="Another document"), "different prompts"),
        (lambda r: r["audit"].update(cut_tokens=7), "different truncation"),
        (lambda r: r["audit"].update(cut_at=3), "different truncation"),
        (lambda r: r["audit"].update(tokens=5), "different numbers of tokens"),
        (lambda r: r["audit"].update(template_sha256="0"), "different prompt templates"),
        (lambda r: r.update(reference="0"), "different references"),
        (lambda r: r.update(sample="other-" + r["sample"]), "no sample that both answered"),
    ],
)
def test_what_differs_is_refused_with_its_reason(run, tmp_path, edit, reason) -> None:
    other = change(write_run(tmp_path, samples=40), lambda r: edit(r) if r["kind"] == "sample" else None)
    with pytest.raises(UserError, match=reason):
        compare.compare(compare.choose([run, other], [STREAM, SHARED]))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c.update(task_version=2), "different versions of the task"),
        (lambda c: c.update(length=(c["length"] or 1) + 1), "other lengths"),
        (lambda c: c.update(settings={**c["settings"], "x": 1}), "different settings"),
        (lambda c: c.update(task="ruler:vt"), "no task in common"),
    ],
)
def test_cells_of_another_kind_are_refused(run, tmp_path, edit, reason) -> None:
    write_run(tmp_path, samples=40)
    record = json.loads((tmp_path / "run.json").read_text())
    for cell in record["cells"].values():
        edit(cell)
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=reason):
        compare.compare(compare.choose([run, load(tmp_path)], [STREAM, SHARED]))


def test_choosing_models(run) -> None:
    with pytest.raises(UserError, match="--model A,B"):
        compare.choose([run])
    with pytest.raises(UserError, match="name two"):
        compare.choose([run], [SHARED])
    with pytest.raises(UserError, match="did you mean synthetic-sharedllm"):
        compare.choose([run], [STREAM, "synthetic-shared"])
    assert len(compare.choose([run, run])) == len(run.models)
    (pair,) = compare.choose([run, run], [SHARED])
    assert pair[0].model == pair[1].model == SHARED


def test_the_command(run, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["compare", str(run.path), "--model", f"{FULL},{SHARED}"])
    out = capsys.readouterr().out.strip().splitlines()
    result = json.loads(out[-1])
    assert done.value.code == 1  # the dense model ran out of memory at the longest length
    assert {(r["task"], r["length"]) for r in result["refused"]} == {("needle", 131072), ("perplexity", 131072)}
    assert any("out of memory" in line for line in out)
    row = next(d for d in result["differences"] if d["task"] == "perplexity" and d["length"] == 8192)
    assert row["verdict"] == f"{FULL} is better"
    assert any(f"{FULL} is better" in line and "perplexity 8192" in line for line in out)


def test_the_command_says_what_is_wrong(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["compare", str(tmp_path)])
    assert done.value.code == 2
    assert "is not a run" in capsys.readouterr().err


def test_the_command_says_what_of_a_run_it_left_out(tmp_path, capsys) -> None:
    folder = write_run(tmp_path, samples=10)
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace('"metrics"', '"metrica"')
    (folder / "samples.jsonl").write_text("".join(lines))
    with pytest.raises(SystemExit) as done:
        main(["compare", str(folder), "--model", f"{FULL},{SHARED}"])
    out, err = capsys.readouterr()
    assert done.value.code == 2
    assert "1 damaged record is left out (line 4: sample.metrics: it is missing)" in err
    assert json.loads(out.splitlines()[-1])["differences"]


def test_a_comma_names_no_model(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["compare", str(write_run(tmp_path, samples=10)), "--model", ","])
    assert done.value.code == 2
    assert "--model names no model" in capsys.readouterr().err
