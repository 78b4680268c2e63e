"""What servers differ in, as the real ones were seen to: names, windows, counts, penalties, and what streams hold."""

from __future__ import annotations

import pytest

from evals.errors import UserError
from evals.methods.base import Query, Stop
from evals.records.models import SampleRecord
from evals.records.read import read_records

pytest.importorskip("openai")

BOS = 256


def test_a_model_that_a_server_does_not_have_is_refused_though_it_answers(load, server) -> None:
    """llama.cpp's server and llama-cpp-python answer for any name with the model that they have."""
    server.any_name = True
    with pytest.raises(UserError, match=r"has no other, and answers all the same.*--set model=NAME \(tiny\)"):
        load(model="other")
    server.models[0]["aliases"] = ["tiny", "other"]
    assert load(model="other").served == "other"
    server.models = []
    assert load(model="other").served == "other", "a server without a list"


def test_a_server_that_looks_at_names_decides_on_them(load, server) -> None:
    """vLLM: 404 for a model that it does not have."""
    with pytest.raises(UserError, match=r"refuses the request \(.*`other` does not exist"):
        load(model="other")


@pytest.mark.parametrize("listed", [[5], [[]], None, "text", 5])
def test_a_list_of_another_form_is_none(load, server, listed: object) -> None:
    server.models, server.any_name = listed, True
    with pytest.raises(
        UserError, match=r"lists no model: name one with .*, or check the address, which as a rule ends in /v1"
    ):
        load()


def test_a_server_that_loads_is_waited_for(load, server) -> None:
    """llama.cpp's server: 503 on every address while it loads its model."""
    server.loading = 2
    assert load().served == "tiny"
    server.loading = 99
    with pytest.raises(UserError, match=r"is not ready \(.*Loading model.*\): wait, then give the same command"):
        load()


def test_the_window_of_a_llama_cpp_server_is_known(load, server) -> None:
    server.models[0]["meta"] = {"n_ctx": 512, "n_ctx_train": 8192}
    assert load().fairness["window"] == 512


def test_an_answer_that_the_servers_window_ends_is_not_scored(load, server) -> None:
    """llama.cpp's server, llama-cpp-python and vLLM: fewer tokens than asked for, and the reason `length`."""
    model = load()
    server.window = 4
    session = model.prefill([BOS, 9])
    assert len(session.generate(Query(), 2)) == 2
    with pytest.raises(UserError, match="ended an answer after 2 of 3 tokens: its window is full"):
        session.generate(Query(), 3)


def test_a_server_that_counts_in_whole_replies_only_is_asked_for_them(load, server, tokenizer) -> None:
    """llama-cpp-python: no usage in streams, and no token ids as prompts."""
    server.counts_in_streams = server.takes_ids = False
    model = load()
    text, dot = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("A text.", "."))
    session = model.prefill([BOS, *text])
    assert tokenizer.decode(session.generate(Query(), 3, Stop(frozenset(dot)))) == "42"
    assert "stream" not in server.asked[-1]
    server.faults = ["short"]
    with pytest.raises(UserError, match="read 6 tokens of a prompt of 8"):
        session.generate(Query(), 3)
    seen: list[int] = []
    assert session.generate(Query(), 3, on_token=seen.append) == seen
    assert server.asked[-1]["stream"], "a timed answer comes piece by piece"


def test_a_server_that_counts_in_streams_has_to_do_so_each_time(load, server) -> None:
    session, server.faults = load().prefill([BOS, 9]), ["no usage"]
    with pytest.raises(UserError, match="does not count the tokens"):
        session.generate(Query(), 3)


def test_no_server_punishes_repetition(load, server) -> None:
    """llama-cpp-python does by default (1.1), vLLM and SGLang as the generation_config.json of a model says."""
    load().prefill([BOS, 9]).generate(Query(), 3)
    fields = {name: server.asked[-1][name] for name in server.asked[-1] if "penalty" in name}
    neutral = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
    assert fields == neutral
    load(extra={"repetition_penalty": 1.3}).prefill([BOS, 9]).generate(Query(), 3)
    assert server.asked[-1]["repetition_penalty"] == 1.3


def test_a_server_that_refuses_such_fields_is_asked_without_them(load, server, tokenizer) -> None:
    """`transformers serve` and OpenAI's own: 4xx for fields that they do not know."""
    server.refused = frozenset({"repetition_penalty", "repeat_penalty"})
    session = load().prefill([BOS, 9])
    before = len(server.asked)
    assert tokenizer.decode(session.generate(Query(), 3)) == "42."
    assert len(server.asked) == before + 1


@pytest.mark.parametrize(
    ("answer", "cut"),
    [
        (["4", "", "2"], True),  # a special token of which the text has nothing: two ids of three
        (["42", "0"], False),  # three ids of three, for two tokens of the server and its end
    ],
)
def test_the_server_says_whether_the_budget_ended_an_answer(load, server, answer: list[str], cut: bool) -> None:
    server.answer = answer
    assert load().prefill([BOS, 9]).generate(Query(), 3).cut == cut


def test_that_is_what_a_record_says(run, server, tmp_path) -> None:
    server.answer = ["4", *[""] * 30]
    assert run("--no-perf").code == 0
    samples = [record for record in read_records(tmp_path / "run") if isinstance(record, SampleRecord)]
    assert {(sample.output.tokens, sample.output.hit_limit) for sample in samples} == {(1, True)}


DONE = '"finish_reason": "stop"'


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ("[]", "something else than a completion"),
        ('"text"', "something else than a completion"),
        ("null", "something else than a completion"),
        ('{"detail": "no"}', "something else than a completion"),
        ('{"content": "4", "stop": false}', "something else than a completion"),  # llama.cpp's without /v1
        ('{"choices": [5]}', "something else than a completion"),
        ('{"choices": [{"text": 5}]}', "something else than a completion"),
        ('{"choices": [{"index": 0, "delta": {"content": "4"}}]}', "something else than a completion"),  # of a chat
        ('{"choices": [{"text": "", "reasoning": "Hm"}]}', "sends its reasoning apart from the answer"),
        ('{"choices": [{"text": "4", ' + DONE + '}], "usage": "many"}', "does not count the tokens"),
        ('{"choices": [{"text": "4", ' + DONE + '}], "usage": {"prompt_tokens": null}}', "does not count the tokens"),
        (
            '{"choices": [{"text": "4", "finish_reason": "abort"}]}',
            r"does not answer \(it gave the answer up",
        ),  # vLLM's
        ('{"error": {"message": "Context size has been exceeded."}}', "does not answer .*has been exceeded"),
        ("{", "does not answer"),
    ],
)
def test_whatever_is_in_a_stream_is_one_sentence(load, server, event: str, sentence: str) -> None:
    session, server.events = load(retries=0).prefill([BOS, 9]), [event]
    with pytest.raises(UserError, match=sentence):
        session.generate(Query(), 3)


def test_counts_may_come_after_the_answer_and_without_one(load, server, tokenizer) -> None:
    """vLLM sends an event with usage alone; some servers leave `choices` out of it."""
    session = load().prefill([BOS, 9])
    text = '{"choices": [{"index": 0, "text": "42", ' + DONE + "}]}"
    other = '{"choices": [{"index": 1, "text": "43", ' + DONE + "}]}"
    for usage in ('{"choices": [], "usage": {"prompt_tokens": 2}}', '{"usage": {"prompt_tokens": 2}}'):
        server.events = [other, text, usage]
        assert tokenizer.decode(session.generate(Query(), 3)) == "42"


def test_a_server_that_says_nothing_gets_more_time(load, server) -> None:
    model = load(retries=0)
    model.client._api = model.client._api.with_options(timeout=0.05)
    server.faults = ["mute"]
    with pytest.raises(UserError, match=r"said nothing for 600 s: give it more time with --set timeout=SECONDS"):
        model.prefill([BOS, 9]).generate(Query(), 3)
