"""Answers with thinking in them: what is cut, what is counted, and when a run says so."""

from __future__ import annotations

import pytest
from openai_server import OpenAIServer
from transformers import PreTrainedTokenizerBase

from evals.methods.weights import byte_tokenizer
from evals.records.read import read_records
from evals.tasks.common.thinking import Thinking, hint, read_answer, without_thinking


@pytest.fixture(scope="module", params=[True, False], ids=["special tokens", "plain text"])
def tokenizer(request) -> PreTrainedTokenizerBase:
    made = byte_tokenizer(300)
    if request.param:
        made.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "[THINK]", "[/THINK]"]})
    return made


@pytest.mark.parametrize(
    ("answer", "opened", "text", "unfinished"),
    [
        ("Paris", False, "Paris", False),
        ("<think>A city? é</think>\n\nParis", False, "Paris", False),
        ("<think></think>Paris", False, "Paris", False),
        ("A city?</think>\nParis", True, "Paris", False),
        ("So: <think>hm</think> Paris <think>sure</think> indeed", False, "So: Paris indeed", False),
        ("[THINK]hm[/THINK]Paris", False, "Paris", False),
        ("<think>A city, but which", False, "", True),
        ("A city, but which", True, "", True),
        ("Paris <think>or", False, "Paris ", True),
    ],
)
def test_blocks_of_thinking_are_cut_out_and_counted(tokenizer, answer, opened, text, unfinished) -> None:
    ids = tokenizer.encode(answer, add_special_tokens=False)
    found = read_answer(tokenizer, ids, Thinking(strip=True, opened=opened))
    assert found.text == text
    assert found.unfinished == unfinished
    kept = len(tokenizer.encode(text, add_special_tokens=False))
    assert 0 <= len(ids) - found.thinking_tokens - kept <= 3  # white space after a block
    assert (found.thinking_tokens > 0) == (answer != "Paris")


def test_without_strip_the_whole_answer_is_scored(tokenizer) -> None:
    ids = tokenizer.encode("<think>hm</think>Paris", add_special_tokens=False)
    found = read_answer(tokenizer, ids, Thinking())
    assert found.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert found.thinking_tokens == len(ids) - len("Paris")


def test_a_hint_where_most_answers_end_inside_a_block() -> None:
    assert hint([]) is None
    assert hint([True, False]) is None
    assert "2 of 3 answers end inside a block of thinking" in str(hint([True, True, False]))


def test_reasoning_of_a_served_model_is_counted_and_never_scored(tiny_presets, command, tmp_path) -> None:
    pytest.importorskip("openai")
    with OpenAIServer(byte_tokenizer(300)) as server:
        server.answer = ["<think>It is not", " 1234567</think>", *["\n"] * 10]
        result = command(
            *("--task", "needle", "--model", tiny_presets("served", settings={"url": server.url}), "--length", "512"),
            *("--set", "thinking=strip", "--set", "depths=0", "--no-perf", "--output", tmp_path / "run"),
        )
    assert result.code == 0, result.err
    (cell,) = result.last["cells"]
    assert cell["metrics"]["thinking_tokens"] > 0
    assert cell["metrics"]["empty"] == cell["metrics"]["hit_limit"] == 1, "nothing but thinking fits the budget"
    assert cell["metrics"]["exact_match"] == cell["metrics"]["normalised"] == 0
    (record,) = read_records(tmp_path / "run")
    assert record.output.text == ""
    assert record.output.tokens > 0


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("Yes. ", "Yes. "),
        ("<think>A?</think> B", "B"),
        ("One <think>A?</think>two[THINK]C?[/THINK] ", "One two"),
        ("A? </think>\nB", "B"),
        ("B <think>and then", "B"),
        ("<think>", ""),
    ],
)
def test_a_reply_without_its_thoughts(reply: str, rest: str) -> None:
    assert without_thinking(reply) == rest
