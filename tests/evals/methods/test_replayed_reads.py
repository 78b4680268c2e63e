"""Rivals whose reads a GPU replays: the numbers of launched reads, few graphs, and nothing that a replay overwrites."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from method_cases import BOS, CASES, CONTEXT, OTHER_QUERY, QUERY, TARGET, Case, load
from recorded_graphs import record
from test_sharedllm_reader import NoWaiting

from evals.methods.base import LongContextModel, Query
from evals.methods.decoding import session as decoding
from evals.methods.decoding.replays import ReplayingModel, Replays
from sharedllm.nn import fused, launch, parts

HALF = ["beacon", "beacon-sink"]
"""Replayed on a GPU in half precision alone: there is no kernel for float32."""
REPLAYED = ["cepe", "cepe-kv", "streaming-chunked", "streaming-token"]
REPLAYED += ["longllama", "longllama-shared-heads", "longllama-overflow", *HALF]
CONTEXTS = [CONTEXT, [(11 * i + 5) % 250 for i in range(75)], [(3 * i * i + i) % 250 for i in range(130)], CONTEXT[:9]]
CONTEXTS += [context[:-1] for context in CONTEXTS]
EMPTY = Query()


def case(name: str, **settings: Any) -> Case:
    """A case of the acceptance matrix, with room for longer texts."""
    known = CASES[name]
    return Case(known.method, known.settings | settings, known.shape)


def loaded(name: str, **runtime: Any) -> tuple[ReplayingModel, LongContextModel]:
    """A method that replays, and the same with reads that are launched."""
    model, plain = load(case(name), **runtime), load(case(name, eager_reads=True), **runtime)
    assert isinstance(model, ReplayingModel)
    return model, plain


def answers(session: Any) -> list[Any]:
    """Of several questions on one read, of no question, and of the first one again; what is generated; the state."""
    scores = [session.score(query, TARGET) for query in (QUERY, EMPTY, OTHER_QUERY, QUERY)]
    return [scores, session.generate(QUERY, 12), session.trace(), session.state_bytes]


def equal(got: list[Any], wanted: list[Any], tolerance: float = 1e-5) -> None:
    for one, other in zip(got[0], wanted[0], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    assert got[1:] == wanted[1:]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Reads take the way of a GPU, without a capture; the keys of all replays. What one returned is worthless as soon
    as the next begins, as if graphs shared one place for all results."""
    found: list[Any] = []
    last: list[torch.Tensor] = []
    call = Replays.__call__

    def watched(self: Any, key: Any, *rest: Any, **more: Any) -> Any:
        for x in last:
            x.fill_(torch.nan)
        found.append(key)
        result = call(self, key, *rest, **more)
        last[:] = [] if result is None else [result]
        return result

    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(Replays, "__call__", watched)
    return found


@pytest.mark.parametrize("name", REPLAYED)
def test_replayed_reads_are_launched_ones(name: str, keys: list[Any]) -> None:
    """Several lengths in turns, and the sessions asked again when all are read."""
    model, plain = loaded(name)
    sessions = [(model.prefill(context, BOS), plain.prefill(context, BOS)) for context in CONTEXTS]
    for _ in range(2):
        for session, other in sessions:
            equal(answers(session), answers(other))
    assert len(keys) > len(set(keys)) > 1


@pytest.mark.parametrize("name", REPLAYED)
def test_recorded_reads_and_steps_are_launched_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two models in turns; what the first rounds recorded is replayed in the last ones."""
    pairs = [loaded(name) for _ in range(2)]
    contexts = [CONTEXTS[i] for i in ((3, 7) if name == "streaming-token" else (0, 2, 5))]  # one token a forward
    wanted = [[answers(plain.prefill(context, BOS)) for context in contexts] for _, plain in pairs]
    recordings = record(monkeypatch)
    for turn in range(3):
        sessions = [[model.prefill(context, BOS) for context in contexts] for model, _ in pairs]
        for number in range(len(contexts)):
            for own, others in zip(sessions, wanted, strict=True):
                equal(answers(own[number]), others[number])
        if turn == 1:
            pairs[0][0].forget()
    assert len(recordings) > 4


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("name", [name for name in REPLAYED if name != "streaming-token"])  # which takes minutes
def test_replayed_reads_in_the_interpreter(name: str, keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are placed by the kernel of a GPU."""
    model, plain = loaded(name)
    wanted = [plain.prefill(context, BOS).score(QUERY, TARGET) for context in CONTEXTS[1:4]]
    launches: list[Any] = []
    monkeypatch.setattr(launch, "launches_on", lambda x: launches.append(x) or nullcontext())
    monkeypatch.setattr(fused, "compiles", lambda x: True)
    monkeypatch.setattr(fused, "_compiled", lambda function, **_: function)
    monkeypatch.setattr(fused, "FEW", 0)
    for context, other in zip(CONTEXTS[1:4], wanted, strict=True):
        torch.testing.assert_close(model.prefill(context, BOS).score(QUERY, TARGET), other, atol=1e-5, rtol=1e-5)
    assert launches
    assert keys


@pytest.mark.parametrize("name", REPLAYED)
def test_by_wish_reads_are_launched(name: str, keys: list[Any]) -> None:
    _, plain = loaded(name)
    plain.prefill(CONTEXTS[2], BOS).score(QUERY, TARGET)
    assert (keys, plain.fairness["read"], plain.replays) == ([], "eager", False)


@pytest.mark.parametrize("name", REPLAYED)
def test_texts_of_many_lengths_share_few_graphs(name: str, keys: list[Any]) -> None:
    model, _ = loaded(name)
    for length in range(60, 130, 3):
        model.prefill(CONTEXTS[2][:length], BOS).score(QUERY, TARGET)
    assert len(set(keys)) < 6


@pytest.mark.parametrize("name", [name for name in REPLAYED if not name.startswith("streaming")])
def test_a_read_that_ends_early_is_begun_anew(name: str, keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a context is read with the first question: here the memory does not suffice."""
    model: Any
    model, plain = loaded(name)
    session, other = model.prefill(CONTEXT, BOS), plain.prefill(CONTEXT, BOS)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        place = (model.model, "cross") if name.startswith("cepe") else (model.model.model.layers[-1].mlp, "forward")
        patch.setattr(*place, fail)
        with pytest.raises(torch.OutOfMemoryError):
            session.score(QUERY, TARGET)
    equal(answers(session), answers(other))


@pytest.mark.parametrize("grouping", [None, [2, 50]])
def test_windows_of_longllama_of_many_lengths_are_launched_ones(keys: list[Any], grouping: list[int] | None) -> None:
    """Two memory layers among four, windows of several shapes, alone and together, and texts that move the local cache
    into memory."""
    shape = {"num_hidden_layers": 4, "mem_layers": [1, 2], "max_position_embeddings": 320}
    settings = {"last_context_length": 90, "mem_attention_grouping": grouping}
    model, plain = (load(Case("longllama", settings | more, shape)) for more in ({}, {"eager_reads": True}))
    text = [(7 * i * i + 3 * i) % 250 for i in range(1400)]
    long = Query(text[:400], question=(0, 3))
    sessions = [(model.prefill(text[:n], BOS), plain.prefill(text[:n], BOS)) for n in (1000, 30, 95, 689, 420, 1370)]
    for _ in range(2):
        for session, other in sessions:
            equal(answers(session), answers(other))
            torch.testing.assert_close(session.score(long, TARGET), other.score(long, TARGET), atol=1e-5, rtol=1e-5)
    windows = {key for key in keys if key[2:] == (None, 1, False) or key[4]}
    shapes = ((1, 64), (1, 512), (2, 512))
    assert windows == {(*shape, *rest) for shape in shapes for rest in ((None, 1, False), (1, 2, True))}


def test_windows_of_longllama_may_attend_in_parts(keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on a GPU in half precision."""
    case = Case("longllama", {"last_context_length": 20}, {"num_key_value_heads": 4, "mem_layers": [0, 1]})
    model, asked = load(case), []
    wanted = answers(model.prefill(CONTEXTS[2] * 3, BOS))

    def pays(q: torch.Tensor, found: torch.Tensor) -> bool:
        asked.append(found.shape[2] > q.shape[2] and found.shape[2] % q.shape[2] == 0)
        return asked[-1]

    monkeypatch.setattr(parts, "pays", pays)
    equal(answers(model.prefill(CONTEXTS[2] * 3, BOS)), wanted, 1e-3)  # memory is rounded to bfloat16
    assert sum(asked) > 3


def test_a_block_of_cepe_waits_for_no_value() -> None:
    """On tensors without values, where asking for one is an error."""
    model: Any = loaded("cepe")[0]
    model.model.to("meta")
    model.model.encoder.rotary_emb.to("meta")
    ids = torch.empty(4, 8, dtype=torch.long, device="meta")
    with torch.inference_mode(), NoWaiting():
        model.reader._whole(ids)
        model.reader._masked(ids[:1], torch.empty(1, dtype=torch.long, device="meta"))


@pytest.mark.parametrize("windows", [1, 2])
def test_windows_of_longllama_wait_for_no_value(windows: int) -> None:
    """On tensors without values, where asking for one is an error."""
    model: Any = load(Case("longllama", {"last_context_length": 20}, {"num_hidden_layers": 4, "mem_layers": [1, 2]}))
    model.model.to("meta")
    model.model.model.rotary_emb.to("meta")
    reader, ids = model.reader, torch.empty(windows, 64, dtype=torch.long, device="meta")
    with torch.inference_mode(), NoWaiting():
        desk = reader._placed(ids, 0)
        for index, until in ((None, 0), (None, 1), (1, 2), (2, 3), (3, 4)):
            reader._run(desk, index, until, until == 2)
