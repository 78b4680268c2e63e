"""benchmarks/throughput.py: both sides answer the same rows, a run that ends early has a result and is continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import load

from evals.errors import UserError
from evals.methods.tokenizers import byte_tokenizer

prompts = load("throughput_prompts")
record = load("throughput_record")
script = load("throughput")

WORDS = ["--random-weights", "--length", "256", "--rows", "10", "--new-tokens", "3", "--device", "cpu"]


@pytest.fixture
def run(
    tiny_presets: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[dict[str, Any]], list[str]]]:
    """Runs the script on a tiny model; returns the lines of stdout and those of its progress."""
    preset = str(tiny_presets("full", max_context=None))

    def called(*words: str) -> tuple[list[dict[str, Any]], list[str]]:
        script.main(["--preset", preset, *WORDS, "--output", str(tmp_path / "found.json"), *words])
        shown = capsys.readouterr()
        progress = [line for line in shown.err.splitlines() if "batch size" in line]
        return [json.loads(line) for line in shown.out.splitlines()], progress

    return called


def test_equal_answers_of_random_weights(run: Callable[..., Any], tmp_path: Path) -> None:
    found, progress = run("--workload", "shared,drawn", "--batch-sizes", "1,5", "--length", "2k", "--require-equal")
    assert [(row["workload"], row["samples"], row["equal_answers"]) for row in found] == [
        ("shared", 10, 1),
        ("drawn", 10, 1),
    ]
    for row in found:
        times = row["seconds"]
        assert row["samples_per_s"]["hf"] == pytest.approx(10 / min(times["hf"].values()))
        assert row["ratio"] == pytest.approx(min(times["hf"].values()) / min(times["ours"].values()))
    warm_ups = [line for line in progress if "warm-up" in line]
    assert len(warm_ups) == 4
    assert len(progress) - len(warm_ups) == 2 + 4, "one text and two pieces of five rows, at two batch sizes"
    stored = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert stored["results"]["shared"]["ratio"] == found[0]["ratio"]


def test_a_run_that_ends_early_has_a_result_and_is_continued(run: Callable[..., Any], tmp_path: Path) -> None:
    words = ("--workload", "drawn", "--batch-sizes", "1,5")
    first, _ = run(*words, "--seconds", "0")
    assert first[0]["samples"] == 5
    pieces = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["pieces"]
    assert [(piece["batch_size"], piece["piece"]) for piece in pieces] == [(1, 0), (5, 0)]
    whole, _ = run(*words)
    assert whole[0]["samples"] == 10
    assert whole[0]["seconds"]["hf"]["1"] > first[0]["seconds"]["hf"]["1"]
    again, progress = run(*words)
    assert again == whole
    assert progress == []


def test_other_settings_are_not_mixed(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    run("--workload", "drawn", "--seconds", "0")
    with pytest.raises(SystemExit) as end:
        run("--workload", "drawn", "--new-tokens", "4")
    assert end.value.code == 2
    assert "new_tokens" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["multi_news", "qmsum"])
def test_other_rows_are_not_mixed(
    task: str, run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    row = {"input": "what?", "context": "one two three " * 9, "answers": ["x"], "length": 27, "dataset": task}
    row |= {"language": "en", "all_classes": None, "_id": "0"}
    words = ("--workload", task, "--data-dir", str(data), "--batch-sizes", "1", "--rows", "1", "--length", "1k")
    (data / f"{task}.jsonl").write_text(json.dumps(row) + "\n")
    assert run(*words)[0][0]["samples"] == 1
    (data / f"{task}.jsonl").write_text(json.dumps(row | {"context": "four five " * 9}) + "\n")
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    assert "data" in capsys.readouterr().err


def test_a_damaged_record_is_an_error(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text('{"pieces": [', encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        run("--workload", "drawn")
    assert end.value.code == 2


def test_a_record_that_cannot_be_written_is_an_error_before_anything_is_measured(
    run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "load", lambda _: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        run("--workload", "drawn", "--output", str(tmp_path / "file" / "found.json"))
    assert end.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_different_answers_are_an_error_where_equal_ones_are_required(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = script.answer

    def other(side: Any, rows: Any, size: int) -> tuple[float, list[str]]:
        took, answers = plain(side, rows, size)
        return took, [text + str(type(side)) for text in answers]

    monkeypatch.setattr(script, "answer", other)
    found, _ = run("--workload", "drawn", "--seconds", "0")
    assert found[0]["equal_answers"] == 0
    with pytest.raises(SystemExit) as end:
        run("--workload", "drawn", "--seconds", "0", "--require-equal")
    assert end.value.code == 1


def test_a_batch_that_does_not_fit_is_left_out(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = script.answer

    def small(side: Any, rows: Any, size: int) -> tuple[float, list[str]]:
        if size > 1:
            raise MemoryError
        return plain(side, rows, size)

    monkeypatch.setattr(script, "answer", small)
    found, progress = run("--workload", "drawn", "--batch-sizes", "1,5", "--seconds", "0")
    assert list(found[0]["seconds"]["ours"]) == ["1"]
    assert any("batch size 5: out of memory" in line for line in progress)
    whole, _ = run("--workload", "drawn", "--batch-sizes", "1,5")
    assert run("--workload", "drawn", "--batch-sizes", "1,5")[0] == whole
    with pytest.raises(SystemExit) as end:
        run("--workload", "shared", "--batch-sizes", "5", "--output", "other.json")
    assert end.value.code == 2


def test_a_piece_is_whole_batches_and_a_text_keeps_its_questions() -> None:
    rows = [prompts.Row(str(i), tokens=i % 7, new_tokens=1) for i in range(40)]
    shared = prompts.pieces("shared", rows, [1, 4])
    assert sorted(len(piece) for piece in shared) == [20, 20]
    assert {row.text for row in shared[0]} in ({str(i) for i in range(20)}, {str(i) for i in range(20, 40)})
    drawn = prompts.pieces("drawn", rows, [1, 4])
    assert [len(piece) for piece in drawn] == [4] * 10
    assert sorted(row.text for piece in drawn for row in piece) == sorted(row.text for row in rows)
    assert all(piece[0].tokens - piece[-1].tokens <= 1 for piece in drawn), "of similar length"
    assert drawn == prompts.pieces("drawn", rows, [1, 4]), "and the same at every start"


def test_drawn_prompts_share_nothing_and_fit() -> None:
    rows = prompts.drawn(byte_tokenizer(258), prompts.Asked(rows=20, length=2048, new_tokens=16))
    assert all(1000 * 0.9 < row.tokens <= 2048 - 16 for row in rows)
    assert len({row.text[:20] for row in rows}) == 20
    assert max(row.tokens for row in rows) > 1.5 * min(row.tokens for row in rows)


def test_needles_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(UserError, match="longer --length"):
        prompts.shared(byte_tokenizer(258), prompts.Asked(rows=10, length=1024))


def test_questions_share_their_text_and_every_text_fits() -> None:
    rows = prompts.shared(byte_tokenizer(258), prompts.Asked(rows=80, length=4096, new_tokens=64))
    assert 3900 < max(row.tokens for row in rows) <= 4096 - 64, "the keys of another text than the first are longer"
    assert len(rows) == 80
    assert len({row.text[:3000] for row in rows}) == 8


def test_the_result_is_about_pieces_that_every_batch_size_has_answered() -> None:
    def piece(size: int, number: int, ours: float, hf: float) -> dict[str, Any]:
        return {"workload": "w", "batch_size": size, "piece": number, "samples": 4, "ours": ours, "hf": hf, "equal": 3}

    kept = record.Record(None, {})
    kept.pieces = [piece(1, 0, 4, 8), piece(4, 0, 2, 10), piece(1, 1, 9, 9)]
    found = record.summary([prompts.Row("", 5, 1), prompts.Row("", 9, 1)], kept.of("w"))
    assert found["samples"] == 4
    assert found["seconds"] == {"ours": {1: 4, 4: 2}, "hf": {1: 8, 4: 10}}
    assert found["samples_per_s"] == {"ours": 2, "hf": 0.5}
    assert (found["ratio"], found["equal_answers"], found["prompt_tokens"]) == (4, 0.75, [5, 7, 9])


@pytest.mark.parametrize(
    "words", [["--batch-sizes", "0"], ["--rows", "x"], ["--device", "gpu"], ["--workload", "qasper"]]
)
def test_arguments_are_checked(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        script.main(words)
    assert end.value.code == 2
    assert words[0] in capsys.readouterr().err
