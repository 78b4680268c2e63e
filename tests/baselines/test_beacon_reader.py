"""Activation Beacon's windows as a GPU replays them: one graph for all, buffers that sessions share, nothing lost."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_activation_beacon import CONTEXT, preset
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.activation_beacon import reader as reading
from baselines.activation_beacon.adapter import ActivationBeacon, BeaconSession
from baselines.activation_beacon.cache import Layout
from baselines.activation_beacon.reader import BeaconReader
from evals.methods.base import Query, Runtime
from evals.methods.decoding import session as decoding
from evals.methods.decoding.replays import Replays
from evals.methods.decoding.static_attention import FirstKeys
from sharedllm.nn.attention import attend_last

QUERIES = [Query([1, 2]), Query(list(range(30))), Query([9])]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Reads take the way of a GPU, without a capture; the keys of all replays."""
    found: list[Any] = []
    call = Replays.__call__

    def watched(self: Any, key: Any, *rest: Any) -> Any:
        found.append(key)
        return call(self, key, *rest)

    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(Replays, "__call__", watched)
    return found


def loaded(ratio: int | None = None, eager: bool = False, **shape: Any) -> ActivationBeacon:
    chosen = {"eager_reads": eager, "reserve": 40} | ({"ratio": ratio} if ratio else {})
    return ActivationBeacon.load(preset(**shape).override(chosen), Runtime(random_weights=True))


def scores(session: BeaconSession) -> torch.Tensor:
    return torch.cat([session.score(query, [3, 4, 5]) for query in QUERIES])


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("queries", [1, 5])
def test_attention_to_the_first_keys_of_a_buffer(queries: int) -> None:
    query, (keys, values) = torch.randn(queries, 4, 8), torch.randn(2, 20, 2, 8)
    for count in (queries, 9, 20):
        beyond = torch.arange(20)[:, None, None] >= count
        got = FirstKeys(queries, torch.tensor(count), 20).attend(
            query, keys.masked_fill(beyond, 1e4), values.masked_fill(beyond, 1e4), 0.4
        )
        by_head = (x[None].transpose(1, 2) for x in (query, keys[:count], values[:count]))
        close(got, attend_last(*by_head, 0.4)[0].transpose(0, 1))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 1),
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_any_cut_of_a_text_leaves_the_same_entries(ratio: int, sink: int, pieces: list[int], keep: int) -> None:
    model = loaded(max(ratio, 2), beacon_sink_size=sink).model
    ids = torch.randint(250, (1, sum(pieces)), generator=torch.manual_seed(keep))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
        read = BeaconReader(model)
        cache, plain = model.new_cache(ratio), model.new_cache(ratio)
        for piece in torch.split(ids, pieces, 1):
            close(read(piece, cache, keep), model.read(piece, plain, keep))
    assert (cache.fill, cache.state_bytes) == (plain.fill, plain.state_bytes)
    used, staged = cache.fill.used, cache.fill.staged
    for layer, other in zip(cache.layers, plain.layers, strict=True):
        close(layer.keys[:, :, :used], other.keys[:, :, :used])
        close(layer.values[:, :, :used], other.values[:, :, :used])
        close(layer.staged[:, :, :staged], other.staged[:, :, :staged])


def test_one_graph_serves_all_windows_of_a_ratio(keys: list[Any]) -> None:
    model = loaded(4)
    for length in (40, 70, 100, 150):
        model.prefill([i % 250 for i in range(length)]).score(QUERIES[1], [3, 4, 5])
    full, four = (4, 16, 1, False), (4, 64, 4, False)
    assert (keys.count(full), keys.count(four)) == (5, 4)
    assert set(keys) == {full, four, (4, 16, 1, True), (4, 64, 1, True)}


def test_contexts_of_several_ratios_take_turns(keys: list[Any]) -> None:
    model, plain = loaded(), loaded(eager=True)
    contexts = [[(i * i + 3) % 250 for i in range(length)] for length in (300, 30, 100, 180)]
    assert len({model.ratio(len(context)) for context in contexts}) == 3
    sessions = [model.prefill(context) for context in contexts]
    wanted = [scores(plain.prefill(context)) for context in contexts]
    for _ in range(2):
        for session, other in zip(sessions, wanted, strict=True):
            close(scores(session), other)
    assert len({ratio for ratio, *_ in keys}) == 3


def test_buffers_that_grow_are_read_into_anew(keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between contexts, and while a session answers. Graphs of the old buffers are gone."""
    monkeypatch.setattr(reading, "STEP", 1)
    monkeypatch.setattr("baselines.activation_beacon.cache.BeaconCache.SLACK", 0)
    model, plain = loaded(4), loaded(4, eager=True)
    sessions, others, seen = [], [], []
    for length in (20, 70, 40, 150):
        context = [i % 250 for i in range(length)]
        sessions.append(model.prefill(context))
        others.append(plain.prefill(context))
        close(scores(sessions[-1]), scores(others[-1]))
        assert model.reader._buffers is not None
        seen.append((model.reader._buffers.capacity, model.reader._replays))
    for session, other in zip(sessions, others, strict=True):
        close(scores(session), scores(other))
    sizes = [size for size, _ in seen]
    assert sizes[0] < sizes[1] == sizes[2] < sizes[3]
    assert seen[0][1] is not seen[1][1]
    assert seen[1][1] is seen[2][1]
    assert len(keys) > 20


def test_an_answer_may_outgrow_the_buffers(keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The session then goes on in buffers of its own, which have no room for padding."""
    monkeypatch.setattr(reading, "STEP", 1)
    monkeypatch.setattr("baselines.activation_beacon.cache.BeaconCache.SLACK", 0)
    model, plain = loaded(2), loaded(2, eager=True)
    session = model.prefill(CONTEXT[:5])
    assert session.generate(QUERIES[0], 180) == plain.prefill(CONTEXT[:5]).generate(QUERIES[0], 180)
    assert session._cache.buffers is not model.reader._buffers
    close(scores(session), scores(plain.prefill(CONTEXT[:5])))
    assert keys


def test_a_session_alone_takes_no_memory_twice(keys: list[Any]) -> None:
    model = loaded(4)
    first = model.prefill(CONTEXT)
    shared = model.reader._buffers
    assert shared is not None
    assert first._cache.buffers is shared
    second = model.prefill(CONTEXT[:40])
    own = first._cache.buffers
    assert own is not None
    assert second._cache.buffers is shared
    assert own.capacity < shared.capacity
    del second
    gc.collect()
    close(scores(first), scores(loaded(4, eager=True).prefill(CONTEXT)))
    assert first._cache.buffers is shared
    model.forget()
    assert model.reader._buffers is None
    assert first._cache.buffers is shared
    assert len(keys) > 5


def test_a_question_that_fails_leaves_the_session_as_it_was(keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(4)
    session = model.prefill(CONTEXT)
    before = scores(session)
    read, calls = type(model.model).read_rows, []

    def fail(*args: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return read(*args)

    with monkeypatch.context() as patch:
        patch.setattr(type(model.model), "read_rows", fail)
        with pytest.raises(torch.OutOfMemoryError):
            session.score(QUERIES[1], [3, 4, 5])
    close(scores(session), before)
    assert len(keys) > 5


def test_other_kernels_are_not_replaced(keys: list[Any]) -> None:
    for runtime in (Runtime(random_weights=True, attn="eager"), Runtime(random_weights=True, kernel_order=("math",))):
        ActivationBeacon.load(preset(), runtime).prefill(CONTEXT)
    assert keys == []


class NoWaiting(TorchDispatchMode):
    """Refuses values that go to the host, and tensors that come from there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        assert not any(word in name for word in ("lift_fresh", "_local_scalar", "nonzero", "masked_select")), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("whole", [True, False])
def test_windows_wait_for_no_value(whole: bool, windows: int) -> None:
    """On tensors without values, where asking for one is an error."""
    model = loaded(4)
    model.model.to("meta")
    model.model.decoder.rotary_emb.to("meta")  # type: ignore[attr-defined]  # a module
    ids = torch.empty(1, 16 * windows, dtype=torch.long, device="meta")
    number = torch.empty(3, dtype=torch.long, device="meta")
    with torch.inference_mode():
        model.reader._admit(model.model.new_cache(4), ids, 64)
        with NoWaiting():
            states = model.reader._run(Layout(16, 4), windows, whole, ids, number)
    assert states.shape == (1, 16 * windows if whole else 0, 32)
