"""Rivals whose reads a GPU replays: the numbers of launched reads, few graphs, and nothing that a replay overwrites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from method_cases import BOS, CASES, CONTEXT, OTHER_QUERY, QUERY, TARGET, Case, load
from test_sharedllm_reader import NoWaiting

from evals.methods.base import LongContextModel, Query
from evals.methods.decoding import session as decoding
from evals.methods.decoding.replays import ReplayingModel, Replays

REPLAYED = ["cepe", "cepe-kv", "streaming-chunked", "streaming-token"]
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


@pytest.mark.parametrize("name", ["cepe", "cepe-kv"])
def test_a_read_that_ends_early_is_begun_anew(name: str, keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = loaded(name)
    session, other = model.prefill(CONTEXT, BOS), plain.prefill(CONTEXT, BOS)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.model), "cross", lambda *_: torch.empty(0, 0) @ torch.empty(1, 1))
        with pytest.raises(RuntimeError):
            session.score(QUERY, TARGET)
    equal(answers(session), answers(other))


def test_a_block_of_cepe_waits_for_no_value() -> None:
    """On tensors without values, where asking for one is an error."""
    model: Any = loaded("cepe")[0]
    model.model.to("meta")
    model.model.encoder.rotary_emb.to("meta")
    ids = torch.empty(4, 8, dtype=torch.long, device="meta")
    with torch.inference_mode(), NoWaiting():
        model.reader._whole(ids)
        model.reader._masked(ids[:1], torch.empty(1, dtype=torch.long, device="meta"))
