"""Served models: what goes over the wire, what comes back, and what happens when a server fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openai_server import OpenAIServer

from baselines.dense import FullAttention
from baselines.served.adapter import Served
from evals.errors import UserError
from evals.lm_eval.models import for_method
from evals.measure.request import cold
from evals.methods import presets
from evals.methods.base import Query, Request, Runtime, Stop
from evals.records.models import PerfRecord, SampleRecord
from evals.records.read import read_records
from evals.run.doctor import model as examined
from evals.run.identity import ModelChoice
from evals.tasks.base import Instance
from evals.tasks.common.prompt import Prompt

pytest.importorskip("openai")

KEY = "sk-this-must-stay-in-memory-0123456789"
BOS = 256


def as_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_prompt_goes_out_as_its_ids_and_the_answer_comes_back(load, server, tokenizer) -> None:
    model = load(extra={"seed": 7})
    context, query = as_ids(tokenizer, "A long text. "), as_ids(tokenizer, "How long?")
    answer = model.prefill(context, [BOS]).generate(Query(query), 3)
    assert tokenizer.decode(answer) == "42."
    asked = server.asked[-1]
    assert asked["prompt"] == [BOS, *context, *query]
    assert asked["model"] == "tiny"
    assert asked["max_tokens"] == 3
    assert asked["temperature"] == 0
    assert asked["seed"] == 7
    assert model.fairness["prompts"] == "token ids"
    assert model.fairness["times"] == "client's"


def test_a_server_without_ids_gets_the_text_that_gives_them(load, server, tokenizer) -> None:
    server.takes_ids = False
    model = load()
    assert model.fairness["prompts"] == "text"
    session = model.prefill(as_ids(tokenizer, "Ä text. "), [BOS])
    session.generate(Query(as_ids(tokenizer, "How long?")), 2)
    assert server.asked[-1]["prompt"] == "Ä text. How long?", "the server adds the BOS"
    half = as_ids(tokenizer, "Ä")[:1]
    with pytest.raises(UserError, match="the text of this one has other token ids"):
        session.generate(Query(half), 2)
    with pytest.raises(UserError, match="other token ids"):
        model.prefill(as_ids(tokenizer, "no BOS")).generate(Query(), 2)


@pytest.mark.parametrize("fault", ["429", "500", "cut", "torn"])
def test_a_request_that_fails_is_repeated(load, server, tokenizer, fault: str) -> None:
    session = load().prefill([BOS, 9])
    before = len(server.asked)
    server.faults = [fault]
    assert tokenizer.decode(session.generate(Query(), 3)) == "42."
    assert len(server.asked) == before + 2


def test_a_timed_request_is_not_repeated(load, server) -> None:
    session = load().prefill([BOS, 9])
    before, seen = len(server.asked), []
    server.faults = ["cut"]
    with pytest.raises(UserError, match="does not answer"):
        session.generate(Query(), 3, on_token=seen.append)
    assert len(server.asked) == before + 1
    assert session.generate(Query(), 3, on_token=seen.append) == seen[1:]


def test_retries_end(load, server) -> None:
    session = load(retries=1).prefill([BOS, 9])
    before = len(server.asked)
    server.faults = ["cut"] * 9
    with pytest.raises(UserError, match=r"does not answer \(.*\): start it again"):
        session.generate(Query(), 3)
    assert len(server.asked) == before + 2
    with pytest.raises(UserError, match="does not answer"):
        session.generate(Query(), 3)
    assert len(server.asked) == before + 3, "a lost server is asked once, not waited for by every cell"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("short", "read 0 tokens of a prompt of 2"),
        ("no usage", "does not count the tokens"),
        ("400", "refuses the request"),
        ("401", "--set key_variable=NAME"),
    ],
)
def test_what_a_server_does_wrong_is_one_sentence(load, server, fault: str, sentence: str) -> None:
    session = load().prefill([BOS, 9])
    server.faults = [fault]
    with pytest.raises(UserError, match=sentence):
        session.generate(Query(), 3)


def test_another_tokenizer_is_noticed_at_once(load, server) -> None:
    server.faults = ["short", "short"]
    with pytest.raises(UserError, match="name the weights that it serves"):
        load()


def test_the_model_is_the_only_one_or_the_named_one(load, server) -> None:
    assert load().served == "tiny"
    server.models.append({"id": "big", "owned_by": "test", "max_model_len": 99})
    with pytest.raises(UserError, match=r"lists 2 models \(big, tiny\): name one with --set model=NAME"):
        load()
    big = load(model="big")
    assert big.served == "big"
    assert big.max_context == 768, "the preset's"
    assert big.fairness["window"] == 99


def test_stop_ids_and_stop_strings_end_an_answer(load, server, tokenizer) -> None:
    server.answer = ["a", "b", "a", "c", "</s>", "d"]
    session = load().prefill([BOS])

    def answer(stop: Stop) -> str:
        return tokenizer.decode(session.generate(Query(), 9, stop))

    b, c = as_ids(tokenizer, "bc")
    assert answer(Stop(frozenset({257}))) == "abac"
    assert answer(Stop(frozenset({b}))) == "a"
    assert answer(Stop(frozenset({b, c}), min_new_tokens=2)) == "aba"
    assert answer(Stop(when=lambda new: tokenizer.decode(new).endswith("ba"))) == "aba"


def test_a_batch_is_asked_at_once(load, server, tokenizer) -> None:
    model = load()
    server.together = 3
    server.gate._parties = 3
    one, other = model.prefill([BOS, 1]), model.prefill([BOS, 2])
    requests = [Request(one, Query([5]), 1), Request(other, Query([6]), 2), Request(one, Query([7]), 3)]
    assert [tokenizer.decode(new) for new in model.generate_batch(requests)] == ["4", "42", "42."]
    assert sorted(asked["prompt"] for asked in server.asked[-3:]) == [[BOS, 1, 5], [BOS, 1, 7], [BOS, 2, 6]]


@pytest.mark.parametrize("takes_ids", [True, False])
def test_times_are_those_of_prompts_that_the_server_has_not_seen(load, server, tokenizer, takes_ids: bool) -> None:
    server.takes_ids = takes_ids
    server.answer = ["one", " two"]
    model = load()
    context, before = as_ids(tokenizer, "".join(f"{i}." for i in range(500))), len(server.asked)
    perf = cold(model, Instance("one", Prompt([BOS], context, as_ids(tokenizer, "Q")), max_new_tokens=4))
    prompts = [str(asked["prompt"]) for asked in server.asked[before:]]
    assert len(prompts) == perf.repeats == 3
    assert len(set(prompts)) > 1
    assert all(len(prompt) == len(prompts[0]) for prompt in prompts)
    assert perf.ttft_s > 0
    assert perf.tpot_ms > 0
    assert perf.new_tokens == len("one two"), "the server ended the answer"
    assert perf.peak_bytes is perf.state_bytes is perf.prefill_flops is perf.decode_bytes is None


def test_an_answer_that_ends_at_once_has_a_time(load, server) -> None:
    server.answer = []
    perf = cold(load(), Instance("one", Prompt([BOS], [1, 2, 3], [4]), max_new_tokens=4))
    assert perf.ttft_s > 0
    assert perf.tpot_ms is None


def test_no_prompt_is_an_error(load) -> None:
    session = load().prefill([])
    with pytest.raises(ValueError, match="empty"):
        session.generate(Query(), 3)
    assert session.generate(Query([1]), 0) == []


@pytest.fixture
def identity(server: OpenAIServer, tiny_presets: Callable[..., Path]) -> Callable[..., dict]:
    def of(**settings: object) -> dict:
        path = tiny_presets("served", settings={"url": server.url, **settings})
        return ModelChoice(presets.load_preset(str(path)), Served, Runtime(dtype="bfloat16")).identity

    return of


def test_a_cell_is_the_model_and_not_the_way_to_it(identity, server) -> None:
    first = identity()
    assert identity(timeout=9, retries=1, url=server.url.replace("127.0.0.1", "localhost"), model="tiny") == first
    assert "dtype" not in first, "the client's says nothing of the server's"
    assert identity(extra={"seed": 1}) != first
    server.models[0]["root"] = "another/checkpoint"
    assert identity() != first
    server.models = [{"id": "tiny", "owned_by": "test", "created": 5, "meta": {"n_params": 7, "n_ctx": 1}}]
    described = identity()
    assert described["server"] == {"model": "tiny", "owned_by": "test", "n_params": 7}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("url", "http://user:pw@host/v1"), ("url", "http://host/v1?key=1"), ("url", "host"), ("key_variable", KEY)],
)
def test_a_key_in_a_setting_is_refused_and_not_shown(load, setting: str, value: str) -> None:
    with pytest.raises(UserError) as refused:
        load(**{setting: value})
    assert setting in str(refused.value)
    assert value not in str(refused.value)


def test_a_missing_variable_is_one_sentence(load, monkeypatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="is not set: export it"):
        load(key_variable="MY_KEY")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_server_that_dies_costs_nothing_that_was_measured(run, server, tokenizer, tmp_path) -> None:
    server.faults = ["", "", "", "", "die"]
    first = run()
    assert first.code == 2
    assert "does not answer" in first.err
    assert "Traceback" not in first.err
    kept = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert kept.count(b"\n") == 2, "two requests found out what the server can do"
    assert run().code == 2, "nobody is there"
    with OpenAIServer(tokenizer) as other:
        result = run(url=other.url)
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "samples.jsonl").read_bytes().startswith(kept)
    records = list(read_records(tmp_path / "run"))
    assert sum(isinstance(record, SampleRecord) for record in records) == 4
    (perf,) = (record for record in records if isinstance(record, PerfRecord))
    assert perf.ttft_s
    assert perf.peak_bytes is None


def test_the_key_is_sent_and_written_nowhere(run, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    server.faults = ["", "", "", "400"]
    failed = run(key_variable="MY_KEY")
    assert failed.code == 2
    assert "bad key or worse: Bearer ***" in failed.err
    done = run(key_variable="MY_KEY")
    assert done.code == 0
    assert set(server.keys) == {f"Bearer {KEY}"}
    shown = "".join(result.out + result.err for result in (failed, done))
    assert KEY not in shown
    written = files(tmp_path)
    assert any(path.name == "run.json" for path in written)
    assert [path for path, content in written.items() if KEY.encode() in content] == []
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.keys.clear()
    run("--no-perf", "--seed", 1, "--output", tmp_path / "other")
    assert set(server.keys) == {"Bearer none"}, "a key goes out where it is asked for, not to any server"


@pytest.mark.parametrize(
    ("task", "sentence"),
    [("perplexity", "needs log-probabilities of a given text"), ("efficiency", "memory and arithmetic")],
)
def test_what_a_server_cannot_say_is_one_sentence(run, task: str, sentence: str) -> None:
    result = run(task=task)
    assert result.code == 2
    assert result.err.count(sentence) >= 1
    assert "Traceback" not in result.err


def test_random_weights_are_refused(run) -> None:
    result = run("--random-weights")
    assert result.code == 2
    assert "the weights of served-tiny are on its server" in result.err


def test_the_doctor_examines_a_server(server, tiny_presets) -> None:
    preset = presets.load_preset(str(tiny_presets("served", settings={"url": server.url})))
    findings = list(examined(preset, Runtime()))
    assert [finding.verdict for finding in findings] == ["ok"] * 3
    assert "answer '42.'" in findings[-1].text


def test_lm_evals_generations_are_served_and_end_at_their_stop_strings(server, tiny_presets) -> None:
    server.answer = ["so", " it", " is", "\n\n", "and", " more"]
    path = tiny_presets("served", settings={"url": server.url})
    model = for_method("served")(preset=str(path), device="cpu", query_tokens=20, max_length=400, batch_size=2)
    asked = [(text, {"until": ["\n\n"], "max_gen_toks": 30}) for text in ("one question", "another question")]
    requests = [SimpleNamespace(args=args, task_name="local") for args in asked]
    assert model.generate_until(requests, disable_tqdm=True) == ["so it is"] * 2
    with pytest.raises(UserError, match="gives no log-probabilities"):
        model.loglikelihood([SimpleNamespace(args=("one", " two"), task_name="local")], disable_tqdm=True)


@pytest.fixture
def transformers_server(tiny_llama: Path, tmp_path: Path) -> Iterator[str]:
    """`transformers serve` with the tiny Llama, in a process of its own."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    port = _free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny_llama)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"], env=environment, stdout=log, stderr=log
        )
    try:
        _wait(f"http://localhost:{port}/health", process)
        yield f"http://localhost:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server did not start")


def test_transformers_serve_answers_as_the_weights_do_here(transformers_server, tiny_llama, tiny_presets) -> None:
    settings = {"url": transformers_server, "model": str(tiny_llama)}
    served = Served.load(presets.load_preset(str(tiny_presets("served", settings=settings))), Runtime())
    here = FullAttention.load(presets.load_preset(str(tiny_presets("full"))), Runtime())
    assert served.fairness["prompts"] == "text"
    context, query = (as_ids(here.tokenizer, text) for text in ("a text of plain letters, ", "and more of it"))
    answers = [model.prefill(context, [BOS]).generate(Query(query), 24) for model in (served, here)]
    assert len(answers[0]) > 8
    shown = [here.tokenizer.decode(answer).rstrip("\ufffd") for answer in answers]
    assert shown[0] == shown[1]
