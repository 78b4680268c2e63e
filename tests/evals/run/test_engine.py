"""Runs end to end through the command line, on stand-ins that fail in every way a run can fail."""

from __future__ import annotations

import gc
import json
import os
import signal
import time
import weakref
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from not_empty import not_empty
from standins import Sum, Toy, ToySession, write_preset
from unshared import shared_records

from evals.records.read import read_records, read_run
from evals.run.samples import AuditError

pytestmark = pytest.mark.usefixtures("standins")


@pytest.fixture
def toy(command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs the toy task on toy models: toy("--set", "...", models={"a": {settings}}) -> Result."""

    def run(*arguments: object, models: dict[str, dict[str, Any]] | None = None, output: str = "run") -> Any:
        fields = models or {"a": {}}
        paths = ",".join(str(write_preset(tmp_path, name, **preset)) for name, preset in fields.items())
        return command(
            "--task", "sum", "--model", paths, "--random-weights", "--device", "cpu",
            "--output", tmp_path / output, *arguments,
        )  # fmt: skip

    return run


def samples(folder: Path) -> list[dict[str, Any]]:
    """What was measured, without what no two runs share."""
    return list(map(json.loads, shared_records(folder)))


def statuses(result: Any) -> list[str]:
    return [cell["status"] for cell in result.last["cells"]]


def test_a_grid_gives_a_table_and_one_json_object(toy: Callable[..., Any], tmp_path: Path) -> None:
    result = toy("--length", "64,128", models={"a": {}, "b": {"settings": {"factor": 3}}})
    assert result.code == 0
    assert result.last["run"] == str(tmp_path / "run")
    assert result.last["failed"] == 0
    assert [(c["model"], c["task"], c["length"], c["n"]) for c in result.last["cells"]] == [
        ("a", "sum", 64, 6),
        ("a", "sum", 128, 6),
        ("b", "sum", 64, 6),
        ("b", "sum", 128, 6),
    ]
    for cell in result.last["cells"]:
        assert set(cell["metrics"]) >= {"exact", "nll"}
        assert cell["ttft_s"] > 0
        assert cell["peak_gib"] > 0
    assert "exact" in result.out
    assert "TTFT" in result.out
    assert "[4/4] b sum 128: ok" in result.err


def test_what_was_measured_is_told_though_the_report_cannot_be_written(toy: Callable[..., Any], tmp_path: Path) -> None:
    assert toy().code == 0
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    result = toy()
    assert result.code == 2
    assert result.err.strip().splitlines()[-1].count("report cannot be written to") == 1
    assert "Traceback" not in result.err
    assert "exact" in result.out
    assert result.last["cells"][0]["metrics"]["exact"] is not None


def test_a_sample_holds_what_was_asked_and_done(toy: Callable[..., Any], tmp_path: Path) -> None:
    toy("--set", "contexts=1")
    generated, scored, perf = samples(tmp_path / "run")
    assert generated["output"]["tokens"] == 3
    assert generated["metrics"].keys() == {"exact", "normalised"}
    assert generated["output"]["hit_limit"] is True
    assert scored["output"] == {"text": "", "tokens": 3, "hit_limit": None}
    assert scored["metrics"].keys() == {"nll"}
    assert generated["audit"]["tokens"] == 59
    assert generated["audit"]["bos"] == 1
    assert generated["trace"] == {"read": 57}
    assert generated["group"] == scored["group"]
    assert generated["prompt"]["tail"].endswith('!"')
    assert perf["status"] == "ok"
    assert (perf["context_tokens"], perf["query_tokens"]) == (57, 2)
    run = read_run(tmp_path / "run")
    [cell] = run.cells.values()
    assert cell.settings["contexts"] == 1
    assert cell.metric == "exact"
    assert run.models["a"].fairness == {"kernel": "sdpa"}
    assert run.environment["packages"]["torch"]
    assert run.spec["seed"] == 0
    timing = run.timing[0]
    parts = sum(timing[key] for key in ("load_s", "model_s", "report_s", "harness_s"))
    assert parts == pytest.approx(timing["wall_s"])


def test_questions_on_one_context_share_a_read(
    toy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    prefill = Toy.prefill
    monkeypatch.setattr(Toy, "prefill", lambda self, *a, **k: (reads.append(1), prefill(self, *a, **k))[1])
    toy("--no-perf", "--set", "questions=4")
    assert len(reads) == 3
    toy("--no-perf", "--set", "questions=4", "--no-reuse", output="fresh")
    assert len(reads) == 3 + 12
    assert samples(tmp_path / "run") == samples(tmp_path / "fresh")


def test_prompts_are_built_once_for_models_that_share_a_tokenizer(
    toy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    instances = Sum.instances
    monkeypatch.setattr(Sum, "instances", lambda self, *a: (made.append(1), instances(self, *a))[1])
    models: dict[str, dict[str, Any]] = {"a": {}, "b": {"settings": {"factor": 3}}}
    toy("--length", "64,128", "--no-perf", models=models)
    assert len(made) == 2
    monkeypatch.setattr("evals.run.instances.MOST_TOKENS", 0)  # nothing may be kept
    toy("--length", "64,128", "--no-perf", models=models, output="room")
    assert len(made) == 2 + 4
    load = Toy.load.__func__  # type: ignore[attr-defined]

    def loaded(cls: type[Toy], preset: Any, runtime: Any) -> Toy:
        model = load(cls, preset, runtime)
        model.tokenizer.chat_template = preset.name
        return model

    monkeypatch.setattr("evals.run.instances.MOST_TOKENS", 1 << 20)
    monkeypatch.setattr(Toy, "load", classmethod(loaded))
    toy("--length", "64,128", "--no-perf", models=models, output="other")
    assert len(made) == 6 + 4
    assert samples(tmp_path / "run") == samples(tmp_path / "room") == samples(tmp_path / "other")


def test_a_read_is_given_up_before_the_next_one(toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two contexts of 128K tokens at once would be out of memory where one fits."""
    alive: list[weakref.ref[ToySession]] = []
    prefill = Toy.prefill

    def counted(self: Toy, *arguments: Any, **named: Any) -> Any:
        assert not any(ref() for ref in alive)
        session = prefill(self, *arguments, **named)
        alive.append(weakref.ref(session))
        return session

    monkeypatch.setattr(Toy, "prefill", counted)
    assert toy().code == 0
    assert len(alive) > 3


def test_the_collections_between_cells_leave_out_what_was_there_before_a_model(
    toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take longer than a small cell: a process that has loaded torch holds a million objects."""
    freeze, evaluate, seen = gc.freeze, Sum.evaluate, []
    monkeypatch.setattr(gc, "freeze", lambda: (seen.append("freeze"), freeze()))
    monkeypatch.setattr(Sum, "evaluate", lambda *parts: (seen.append("answer"), evaluate(*parts))[1])
    toy("--length", "64,128", "--no-perf", models={"a": {}, "b": {"settings": {"factor": 3}}})
    assert [name for name, _ in groupby(seen)] == ["freeze", "answer"] * 2


def test_the_same_command_resumes_and_a_larger_limit_goes_on(toy: Callable[..., Any], tmp_path: Path) -> None:
    toy("--limit", 2)
    first = (tmp_path / "run" / "samples.jsonl").read_bytes()
    again = toy("--limit", 2)
    assert again.last["cells"][0]["n"] == 2
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == first
    more = toy("--limit", 5)
    assert more.last["cells"][0]["n"] == 5
    assert (tmp_path / "run" / "samples.jsonl").read_bytes().startswith(first)
    toy("--limit", 5, output="at-once")
    assert sorted(map(json.dumps, samples(tmp_path / "run"))) == sorted(map(json.dumps, samples(tmp_path / "at-once")))


def test_another_run_is_refused_and_nothing_is_touched(toy: Callable[..., Any], tmp_path: Path) -> None:
    toy()
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    result = toy("--seed", 1)
    assert result.code == 2
    assert "another run: seed was 0, now 1." in result.err
    assert len(result.err.splitlines()) == 1
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_corrected_data_are_another_run_and_the_message_says_so(toy: Callable[..., Any], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.jsonl").write_text("Parma", encoding="utf-8")
    assert toy("--data-dir", data).code == 0
    (data / "run").mkdir()
    (data / "run" / "run.json").write_text("{}", encoding="utf-8")
    assert toy("--data-dir", data).code == 0
    (data / "rows.jsonl").write_text("Paris", encoding="utf-8")
    result = toy("--data-dir", data)
    assert result.code == 2
    assert "another run: the data files of sum changed." in result.err


def test_the_default_folder_depends_on_what_is_run_only(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = write_preset(tmp_path, "a")
    base = ("--task", "sum", "--model", preset, "--random-weights", "--no-perf")
    runs = [command(*base, *more).last["run"] for more in ((), ("--limit", 1), ("--seed", 1))]
    assert runs[0] == runs[1] != runs[2]
    assert Path(runs[0]).parent == Path("runs")


def test_out_of_memory_is_a_result(toy: Callable[..., Any], tmp_path: Path) -> None:
    result = toy("--length", "64,256", models={"a": {"settings": {"room": 100}}})
    assert result.code == 0
    assert result.last["failed"] == 0
    assert statuses(result) == ["ok", "oom"]
    [oom] = [r for r in read_records(tmp_path / "run") if r.kind == "perf" and r.status == "oom"]
    assert oom.peak_bytes > 0
    assert "out of memory" in oom.error
    size = (tmp_path / "run" / "samples.jsonl").stat().st_size
    assert statuses(toy("--length", "64,256", models={"a": {"settings": {"room": 100}}})) == ["ok", "oom"]
    assert (tmp_path / "run" / "samples.jsonl").stat().st_size == size


def test_bad_input_in_one_cell_spares_the_others(toy: Callable[..., Any], tmp_path: Path) -> None:
    result = toy("--length", "64,256", "--set", "available=100")
    assert result.code == 1
    assert result.last["failed"] == 1
    assert statuses(result) == ["ok", "failed"]
    assert "The text has 100 tokens, not 256" in result.err
    assert "Traceback" not in result.err
    assert "The text has 100 tokens" in result.last["cells"][1]["error"]


def test_bad_input_alone_is_exit_code_2(toy: Callable[..., Any]) -> None:
    result = toy("--set", "trouble=malformed")
    assert result.code == 2
    assert statuses(result) == ["failed"]
    assert "rows.jsonl line 2" in result.err


def test_a_bug_keeps_its_traceback_and_the_sweep_goes_on(toy: Callable[..., Any], tmp_path: Path) -> None:
    result = toy("--length", "64,128", "--set", "trouble=bug")
    assert result.code == 1
    assert statuses(result) == ["failed", "failed"]
    assert "ZeroDivisionError: a bug in the task" in result.err
    assert "in evaluate" in result.err
    cells = read_run(tmp_path / "run").cells.values()
    assert all("ZeroDivisionError" in cell.traceback for cell in not_empty(cells))


def test_a_failed_cell_is_tried_again(toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from standins import Sum

    with monkeypatch.context() as patch:
        patch.setattr(Sum, "evaluate", lambda *_: {}[0])
        assert toy().code == 1
    result = toy()
    assert result.code == 0
    assert statuses(result) == ["ok"]
    assert result.last["cells"][0]["error"] is None


def test_a_broken_prompt_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evals.cli.evaluate import main

    monkeypatch.chdir(tmp_path)
    preset = write_preset(tmp_path, "a")
    with pytest.raises(AuditError, match="2 BOS tokens"):
        main(["--task", "sum", "--model", str(preset), "--random-weights", "--set", "trouble=two bos"])


def test_samples_with_one_id_end_the_run_before_any_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report would count one of them, and the cell would never be complete."""
    from evals.cli.evaluate import main

    monkeypatch.chdir(tmp_path)
    preset = write_preset(tmp_path, "a")
    with pytest.raises(AuditError, match="sum: 6 samples have the id 000"):
        main(["--task", "sum", "--model", str(preset), "--random-weights", "--set", "trouble=one id"])


def test_missing_data_and_weights_are_all_named_before_anything_runs(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    presets = ",".join(
        str(write_preset(tmp_path, name, weights={"source": "hub:nobody/nothing", "size": "13 GB"}))
        for name in ("a", "b")
    )
    result = command(
        "--task", "sum", "--model", presets, "--offline", "--set", "trouble='no data'",
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert result.code == 2
    assert "13 GB" in result.err
    assert "The data of sum are missing" in result.err
    assert result.err.count("(13 GB") == 1
    assert not (tmp_path / "run").exists()


def test_beyond_its_window_a_model_runs_and_the_table_says_so(toy: Callable[..., Any]) -> None:
    result = toy("--length", "64,128", models={"a": {"max_context": 64}})
    assert statuses(result) == ["ok", "ok"]
    assert [cell["beyond_window"] for cell in result.last["cells"]] == [False, True]
    assert "beyond window" in result.out
    assert "window of 64" in result.err


def test_settings_reach_task_and_model(toy: Callable[..., Any], tmp_path: Path) -> None:
    result = toy("--set", "questions=1", "factor=5", "--no-perf")
    run = read_run(tmp_path / "run")
    assert result.last["cells"][0]["n"] == 3
    assert run.models["a"].preset["settings"] == {"factor": 5}
    for bad, sentence in {
        "qestions=1": "did you mean questions",
        "shared=1": "write task.shared or model.shared",
        "questions=many": "setting questions of sum",
        "factor=big": "setting factor of a",
    }.items():
        refused = toy("--set", bad)
        assert refused.code == 2 and sentence in refused.err and len(refused.err.splitlines()) == 1, refused.err


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    start: Callable[..., Any], toy: Callable[..., Any], tmp_path: Path
) -> None:
    preset = write_preset(tmp_path, "a")
    arguments = ["--task", "sum", "--model", preset, "--random-weights", "--device", "cpu", "--no-perf"]
    arguments += ["--set", "contexts=20", "pause=0.02"]
    process = start(*arguments, "--output", tmp_path / "killed")
    file = tmp_path / "killed" / "samples.jsonl"
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    torn = file.read_bytes()
    assert 5 <= torn.count(b"\n") < 40
    file.write_bytes(torn + b'{"kind": "sample", "cell"')  # a write that the kill cut short
    more = ("--set", "contexts=20", "pause=0.02", "--no-perf")
    assert statuses(toy(*more, output="killed")) == ["ok"]
    toy(*more, output="whole")
    assert file.read_bytes().startswith(torn)
    assert samples(tmp_path / "killed") == samples(tmp_path / "whole")


def test_a_row_that_cannot_be_asked_is_marked_and_the_others_go_on(toy: Callable[..., Any], tmp_path: Path) -> None:
    result = toy("--set", "trouble=long rows")
    assert result.code == 0
    (cell,) = result.last["cells"]
    assert cell["n"] == 4
    records = {s["sample"]: s for s in samples(tmp_path / "run") if s["kind"] == "sample"}
    assert [name for name, s in records.items() if s["status"] == "failed"] == ["001", "002"]
    assert records["001"]["error"] == "Row 1 is too long: choose a larger --length."
    assert toy("--set", "trouble=long rows").code == 0
    assert len(samples(tmp_path / "run")) == len(records) + 1  # resumed: nothing was asked again
