"""Exports: what is written is what the formats of others ask for, and the numbers are those of the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import folders
import pytest
from fixtures.synthetic_run import write_run
from jsonschema import Draft7Validator
from lm_eval.utils import make_table
from not_empty import not_empty

from evals.cli.report import main
from evals.report import plots
from evals.report.export import Format, export
from evals.report.load import Run, load
from evals.report.summary import records, summarize

SCHEMAS = folders.TESTS / "fixtures" / "every_eval_ever"
MODELS = ("synthetic-full", "synthetic-sharedllm")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two models, three tasks, one cell out of memory."""
    return load(write_run(tmp_path_factory.mktemp("runs") / "a", samples=4, models=MODELS))


def validator(name: str) -> Draft7Validator:
    return Draft7Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8")))


def cells(run: Run, model: str) -> list[dict[str, Any]]:
    """The scored cells of a model."""
    return [r for r in records(summarize(run)) if r["model"] == model and r["metric"] in r["metrics"]]


def test_every_eval_ever_fits_the_published_schemas(run: Run, tmp_path: Path) -> None:
    files = export(run, tmp_path, Format.every_eval_ever)
    aggregates, samples = [f for f in files if f.suffix == ".json"], [f for f in files if f.suffix == ".jsonl"]
    assert len(aggregates) == len(samples) == len(MODELS)
    for path in aggregates:
        validator("eval").validate(json.loads(path.read_text(encoding="utf-8")))
    check = validator("instance_level_eval")
    for path in samples:
        for line in path.read_text(encoding="utf-8").splitlines():
            check.validate(json.loads(line))


def test_every_eval_ever_holds_scores_intervals_and_the_samples_behind_them(run: Run, tmp_path: Path) -> None:
    files = {f.name: f for f in export(run, tmp_path, Format.every_eval_ever)}
    aggregate = json.loads(next(f for f in files.values() if f.suffix == ".json").read_text(encoding="utf-8"))
    expected = cells(run, MODELS[0])
    found = aggregate["evaluation_results"]
    assert [r["evaluation_result_id"] for r in found] == [r["cell"] for r in expected]
    for result, row in zip(found, expected, strict=True):
        assert result["score_details"]["score"] == row["metrics"][row["metric"]]
        assert result["metric_config"]["lower_is_better"] is not row["higher_is_better"]
        assert result["score_details"]["uncertainty"]["num_samples"] == row["n"]
        interval = result["score_details"]["uncertainty"].get("confidence_interval")
        around = interval and [interval["lower"], interval["upper"]]
        assert around == row["intervals"].get(row["metric"])
        assert float(result["score_details"]["details"]["ttft_s"]) == row["ttft_s"]
    detailed = aggregate["detailed_evaluation_results"]
    path = tmp_path / "exports" / "every-eval-ever" / detailed["file_path"]
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == detailed["checksum"]
    lines = [json.loads(line) for line in content.splitlines()]
    assert len(lines) == detailed["total_rows"]
    of_needle = [line for line in lines if line["evaluation_result_id"] == expected[0]["cell"]]
    mean = sum(line["evaluation"]["score"] for line in of_needle) / len(of_needle)
    assert mean == pytest.approx(expected[0]["metrics"][expected[0]["metric"]])
    assert {line["evaluation_id"] for line in lines} == {aggregate["evaluation_id"]}


def test_lm_evals_own_table_shows_our_cells(run: Run, tmp_path: Path) -> None:
    files = export(run, tmp_path, Format.lm_eval)
    assert [f.parent.name for f in files] == list(MODELS)
    results = json.loads(files[0].read_text(encoding="utf-8"))
    shown: dict[str, list[list[str]]] = {}
    for line in make_table(results).splitlines()[2:]:
        task, *columns = (part.strip() for part in line.strip("|").split("|"))
        current = task or next(reversed(shown))  # a task stands in its first row only
        shown.setdefault(current, []).append(columns)
    for row in not_empty(cells(run, MODELS[0])):
        name = row["task"] + (f"@{row['length']}" if row["length"] else "")
        value, arrow = row["metrics"][row["metric"]], "↑" if row["higher_is_better"] else "↓"
        assert results["results"][name][f"{row['metric']},none"] == value
        [columns] = [columns for columns in shown[name] if columns[3] == row["metric"]]
        assert columns[4:6] == [arrow, f"{value:.4f}"]


def test_the_command_exports_and_names_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "draw", lambda data, folder: [])
    folder = write_run(tmp_path / "a", samples=4, models=MODELS[:1], tasks=("needle",))
    with pytest.raises(SystemExit) as end:
        main([str(folder), "--export", "every-eval-ever", "--export", "lm-eval"])
    assert end.value.code == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    exported = [Path(path) for path in last["reports"][0]["exports"]]
    assert len(exported) == 3
    assert all(path.is_file() for path in exported)
