"""Reads of SharedLLM that a GPU replays: the numbers of plain reads, nothing that waits for a value, nothing shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from method_cases import BOS, CONTEXT, OTHER_QUERY, QUERY, TARGET, Case, load
from torch.utils._python_dispatch import TorchDispatchMode

from evals.methods import sharedllm_reader
from evals.methods.base import Query
from evals.methods.decoding import session as decoding
from evals.methods.decoding.replays import Replays
from evals.methods.sharedllm import SharedLLM
from sharedllm.nn.layers import decoder_of
from sharedllm.outputs import Decoded

ROOMY = {"max_position_embeddings": 512}
TREE: dict[str, Any] = {"chunk_size": 16, "ratios": [4, 2, 1], "lower_layers": 2}
REPLAYED = {
    "right": {**TREE, "policy": "right"},
    "right-recent": {**TREE, "policy": "right", "fine_recent": 1},
    "last-token": {**TREE, "policy": "last_token", "injection": "top"},
    "maxsim": {**TREE, "policy": "maxsim", "key_positions": "node+chunk"},
    "maxsim-strided": {**TREE, "policy": "maxsim", "sampling": "strided", "query_position": "n+1"},
    "maxsim-overlap": {**TREE, "policy": "maxsim", "leaf_overlap": 1, "fine_chunks": 1, "injection_start": 1},
    "joint": {**TREE, "policy": "maxsim", "attention": "joint", "rank": 3},
    "joint-last-token": {**TREE, "policy": "last_token", "attention": "joint", "fine_recent": 1},
    "one-level": {"chunk_size": 10, "ratios": [2], "lower_layers": 1, "policy": "maxsim", "fine_chunks": 1},
}
LAUNCHED = {
    "odd-nodes": {**TREE, "chunk_size": 15, "policy": "maxsim"},
    "whole-trees": {**TREE, "policy": "maxsim", "nodes": "all"},
    "in-host-memory": {**TREE, "policy": "maxsim", "offload": True},
    "by-wish": {**TREE, "policy": "maxsim", "eager_reads": True},
}
CONTEXTS = [CONTEXT, [(11 * i + 5) % 250 for i in range(45)], [(3 * i * i + i) % 250 for i in range(45)]]


def loaded(settings: dict[str, Any], **runtime: Any) -> SharedLLM:
    return cast(SharedLLM, load(Case("sharedllm", settings, ROOMY), **runtime))


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Reads take the way of a GPU, without a capture. What one returned is worthless as soon as its copies are made;
    the keys of all of them."""
    keys: list[Any] = []
    copied = sharedllm_reader.Reader._copied

    def poisoned(self: Any, shape: Any, *rest: Any) -> Decoded:
        made: list[Decoded] = []
        call = Replays.__call__

        def watched(self: Any, *args: Any) -> Decoded:
            made.append(call(self, *args))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Replays, "__call__", watched)
            found = copied(self, shape, *rest)
        for x in tensors(made[0]):
            x.fill_(torch.nan if x.is_floating_point() else 1)
        keys.append(shape)
        return found

    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(sharedllm_reader.Reader, "_copied", poisoned)
    return keys


def tensors(read: Decoded) -> list[torch.Tensor]:
    """All that a read returned."""
    context, cache = read.context, cast(Any, read.cache)
    assert context is not None
    found = [read.hidden, *context.keys, *context.values, *(context.query_rotation or ()), context.num_chunks]
    found += [x for x in (context.mask, context.path, context.fine) if x is not None]
    return [*found, *(x for pair in cache.keys_values() for x in pair)]


def answers(session: Any) -> list[Any]:
    """What two questions and none, put twice, are answered with."""
    plain = Query(QUERY.ids)
    scores = [session.score(query, TARGET) for query in (QUERY, OTHER_QUERY, plain, QUERY)]
    return [scores, session.generate(QUERY, 6), session.trace(), session.state_bytes]


def equal(got: list[Any], wanted: list[Any], tolerance: float = 1e-5) -> None:
    for one, other in zip(got[0], wanted[0], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    assert got[1:] == wanted[1:]


@pytest.mark.parametrize("name", REPLAYED)
def test_replayed_reads_are_plain_ones(name: str, replaying: list[Any]) -> None:
    """Three contexts in a row, the sessions asked again when all are read; then fewer chunks and a longer question."""
    model, plain = loaded(REPLAYED[name]), loaded({**REPLAYED[name], "eager_reads": True})
    sessions = [(model.prefill(context, BOS), plain.prefill(context, BOS)) for context in CONTEXTS]
    for _ in range(2):
        for session, other in sessions:
            equal(answers(session), answers(other))
    seen = len(set(replaying))
    assert len(replaying) > seen > 0
    shorter, longer = CONTEXT[:30], Query([i % 250 for i in range(90)], question=(2, 75))
    for context, query in ((shorter, QUERY), (shorter, longer), (CONTEXT, longer)):
        got, wanted = (m.prefill(context).score(query, TARGET) for m in (model, plain))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert len(set(replaying)) > seen


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_cannot_be_replayed_is_launched(name: str, replaying: list[Any]) -> None:
    model = loaded(LAUNCHED[name])
    model.prefill(CONTEXT, BOS).score(QUERY, TARGET)
    assert replaying == []
    assert model.fairness["read"] == "eager"


def test_a_long_read_is_launched_and_takes_the_memory_of_the_graphs(
    replaying: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cleared = loaded(REPLAYED["maxsim"]), []
    monkeypatch.setattr(Replays, "clear", lambda self: cleared.append(len(replaying)))
    model.prefill(CONTEXT, BOS).score(QUERY, TARGET)
    assert (len(replaying), cleared) == (1, [])
    monkeypatch.setattr(sharedllm_reader, "MOST_FLOPS", 0)
    model.prefill(CONTEXT[:30], BOS).score(QUERY, TARGET)
    assert (len(replaying), cleared) == (1, [1])


def test_chunks_of_several_blocks_that_compete_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows a `Contest` keeps depends on scores."""
    model = loaded(REPLAYED["maxsim-overlap"]).model
    lower = model._lower_model()
    monkeypatch.setattr(type(lower), "block", lambda self, tokens: 2)
    assert model.launches_alike(2, searches=True)
    assert not model.launches_alike(3, searches=True)
    assert model.launches_alike(3, searches=False)


class NoWaiting(TorchDispatchMode):
    """Refuses what a capture refuses: values that go to the host, and tensors that come from there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        assert not any(word in name for word in ("lift_fresh", "_local_scalar", "nonzero", "masked_select")), name
        found = function(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, found))
        places = {x.device.type for x in leaves if isinstance(x, torch.Tensor) and x.ndim}
        assert len(places) < 2, f"{name} copies between devices"
        return found


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("name", REPLAYED)
def test_a_read_waits_for_no_value(name: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values, where asking for one is an error; the negative control is below."""
    model = loaded(REPLAYED[name])
    shared = model.model.to("meta")
    rotary = cast(Any, decoder_of(shared.base).rotary_emb)
    rotary.to("meta")
    chunks = 4
    monkeypatch.setattr(type(shared._lower_model()), "block", lambda self, tokens: chunks // blocks)
    searches = shared.config.policy != "right"
    if not shared.launches_alike(chunks, searches):
        pytest.skip("chunks of several blocks compete for the fine ones: never replayed")
    ids = torch.empty(1, chunks, shared.config.chunk_size, dtype=torch.long, device="meta")
    text, span = torch.empty(1, 64, dtype=torch.long, device="meta"), torch.empty(2, dtype=torch.long, device="meta")
    with torch.inference_mode(), NoWaiting():
        model.reader._run(32 if searches else 0, ids, text, span)


def test_reads_that_are_launched_do_wait() -> None:
    shared = (model := loaded(LAUNCHED["odd-nodes"])).model.to("meta")
    ids = torch.empty(1, 4, shared.config.chunk_size, dtype=torch.long, device="meta")
    text, span = torch.empty(1, 64, dtype=torch.long, device="meta"), torch.empty(2, dtype=torch.long, device="meta")
    with torch.inference_mode(), pytest.raises(Exception, match=r"meta|lift_fresh"), NoWaiting():
        model.reader._run(32, ids, text, span)
