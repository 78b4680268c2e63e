"""Batches decoded with static steps: the tokens of one request at a time, contexts that are read once and not copied,
nothing that depends on the host."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import method_cases
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from method_cases import Case
from test_recipes import FAMILIES
from test_sharedllm_reader import NoWaiting
from test_static_decoder import Operations

from baselines.dense import DenseSession
from evals.methods.base import LongContextModel, NotFiniteError, Query, Request, Stop
from evals.methods.decoding import batch_attention, batch_step, batching
from evals.methods.decoding import session as decoding
from evals.methods.decoding.batch_attention import BatchTail
from evals.methods.decoding.batch_step import BatchStep
from evals.methods.decoding.cuda_graph import Arrival, GraphRunner
from sharedllm.nn import row

BASES = {name: fields for name, fields in FAMILIES.items() if name in ("phi3", "smollm3", "granite", "olmo2")}
CASES = {"llama": Case("full")} | {
    name: Case("full", {}, {"model_type": name, "pad_token_id": 0, **fields}) for name, fields in BASES.items()
}
STEPPED = 5
"""Tokens after a query in the test of attention."""


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> LongContextModel:
    return method_cases.load(CASES[request.param])


@pytest.fixture(scope="module")
def llama() -> LongContextModel:
    return method_cases.load(CASES["llama"])


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[BatchStep]:
    """Batches take the way of a GPU, without a capture, and requests alone that of a CPU; the step of every launch."""
    launched: list[BatchStep] = []
    launch = GraphRunner._launch
    monkeypatch.setattr(batching, "_replays", lambda model: True)
    monkeypatch.setattr(
        GraphRunner,
        "_launch",
        lambda self: (launched.append(self.step), launch(self))[1],  # type: ignore[arg-type]
    )
    return launched


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(250) for _ in range(count)]


def alone(requests: list[Request]) -> list[list[int]]:
    return [r.session.generate(r.query, r.max_new_tokens, r.stop) for r in requests]


def questions(model: LongContextModel, count: int, new: int = 6, stop: Stop | None = None) -> list[Request]:
    """About one context, of different lengths."""
    rng = random.Random(count)
    session = model.prefill(tokens(rng, 30))
    return [Request(session, Query(tokens(rng, 2 + i)), new, stop) for i in range(count)]


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 5), contexts=st.integers(1, 3), read=st.sampled_from([1, 9, 99]))
def test_equal_to_one_at_a_time(model: LongContextModel, seed: int, rows: int, contexts: int, read: int) -> None:
    """Of contexts that some requests share, in any order, with empty contexts and queries among them."""
    rng = random.Random(seed)
    sessions = [
        model.prefill(tokens(rng, rng.randrange(40)), prefix_ids=[256][: rng.randrange(2)]) for _ in range(contexts)
    ]
    requests = []
    for _ in range(rows):
        stop = Stop(frozenset(tokens(rng, rng.randrange(80))), rng.randrange(4))
        session = rng.choice(sessions)
        query = Query(tokens(rng, rng.randrange(9) + (session.tokens == 0)))  # type: ignore[attr-defined]
        requests.append(Request(session, query, rng.randrange(14), stop))
    expected = alone(requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_step, "READ", read)  # queries are read one by one, in parts, together
        assert model.generate_batch(requests) == expected
    assert alone(requests) == expected  # the contexts are as they were


@pytest.mark.parametrize("asked", [62, 63, 64, 65])
@pytest.mark.parametrize("new", [1, 2, 3, 66])
def test_places_end_where_they_have_to(asked: int, new: int) -> None:
    model = method_cases.load(Case("full", {}, {"max_position_embeddings": 256}))
    rng = random.Random(asked)
    sessions = [model.prefill(tokens(rng, n)) for n in (0, 64)]
    requests = [Request(s, Query(tokens(rng, n)), new) for s, n in zip(sessions, (asked, 1), strict=True)]
    assert model.generate_batch(requests) == alone(requests)


def test_every_request_ends_on_its_own(llama: LongContextModel, steps: list[BatchStep]) -> None:
    requests = questions(llama, 5, 9)
    whole = alone(requests)
    stops = [
        Stop(when=lambda new: len(new) == 2),
        None,
        Stop(frozenset(whole[2][4:])),
        Stop(frozenset(whole[3][:1])),
        Stop(frozenset(whole[4][:1]), min_new_tokens=3),
    ]
    requests = [Request(r.session, r.query, (9, 5, 9, 9, 0)[i], stops[i]) for i, r in enumerate(requests)]
    found = llama.generate_batch(requests)
    assert found == alone(requests)
    assert [len(new) for new in found[:2]] == [2, 5]
    assert found[3:] == [[], []]
    assert len({*steps}) == 1
    assert llama.generate_batch([Request(r.session, r.query, 0) for r in requests]) == [[]] * len(requests)


def test_the_device_is_one_step_ahead(llama: LongContextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is launched before the tokens of the one before it are known; none that nobody can want."""
    events: list[str] = []
    launch, values, take = GraphRunner._launch, Arrival.values, batching.Answers.take
    monkeypatch.setattr(GraphRunner, "_launch", lambda runner: (events.append("launch"), launch(runner))[1])
    monkeypatch.setattr(Arrival, "values", lambda arrival: (events.append("arrived"), values(arrival))[1])
    monkeypatch.setattr(batching.Answers, "take", lambda *args: (events.append("known"), take(*args))[1])
    llama.generate_batch(questions(llama, 3, 4))
    assert events == [*["launch", "arrived", "known"] * 3, "arrived", "known"]
    events.clear()
    llama.generate_batch(questions(llama, 3, 1))
    assert events == ["arrived", "known"]
    events.clear()
    llama.generate_batch(questions(llama, 3, 9, Stop(when=lambda new: len(new) == 2)))
    assert events == [*["launch", "arrived", "known"] * 2, "arrived"]  # of a step that nobody wanted


def test_steps_are_static_and_wait_for_no_value(model: LongContextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph replays: equal operations with equal arguments, the values of tensors aside."""
    launch, seen = GraphRunner._launch, []

    def recorded(runner: GraphRunner) -> torch.Tensor:
        with NoWaiting(), Operations() as operations:
            logits = launch(runner)
        seen.append(operations.seen)
        return logits

    monkeypatch.setattr(GraphRunner, "_launch", recorded)
    stop = Stop(frozenset([3, 4]), min_new_tokens=2)
    requests = [*questions(model, 3), Request(model.prefill([5, 6, 7]), Query([8]), 6, stop)]
    model.generate_batch(requests)
    assert len(seen) == 5
    assert all(operations == seen[0] for operations in seen)


def test_a_step_reads_each_context_once_and_copies_none(
    llama: LongContextModel, monkeypatch: pytest.MonkeyPatch, steps: list[BatchStep]
) -> None:
    calls: list[tuple[torch.Size, int]] = []
    attend_all = batch_attention.attend_all

    def watched(query: torch.Tensor, keys: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if not more:
            calls.append((query.shape, keys.data_ptr()))
        return attend_all(query, keys, *rest, **more)

    monkeypatch.setattr(batch_attention, "attend_all", watched)
    monkeypatch.setattr(DenseSession, "appended", lambda *_: pytest.fail("a query was read alone"))
    other = llama.prefill([1, 2, 3])
    first, *rest = questions(llama, 3)
    llama.generate_batch([first, Request(other, Query([4, 5]), 6), *rest])
    assert len(steps) == 5
    held = [keys.data_ptr() for session in (first.session, other) for keys, _ in session.context]  # type: ignore[attr-defined]
    layers = len(held) // 2
    each = [(calls[i][0][2], calls[i][1]) for i in range(-2 * layers, 0)]  # of the last step
    assert sorted(each) == sorted([(6, at) for at in held[:layers]] + [(2, at) for at in held[layers:]])
    assert len(calls) == 6 * 2 * layers  # the read of the queries, too


@pytest.mark.parametrize("broken", [0, 2])
def test_logits_that_are_not_finite_are_an_error(
    llama: LongContextModel, broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the step that has them, and not after a request has ended."""
    seen: list[int] = []
    hold = batch_step.HeldBack.__call__

    def poisoned(held: Any, logits: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
        logits = hold(held, logits, count).clone()
        if int(count) == broken:
            logits[1, 7] = torch.nan
        return logits

    monkeypatch.setattr(batch_step.HeldBack, "__call__", poisoned)
    stop = Stop(when=lambda new: bool(seen.append(len(new))))
    requests = questions(llama, 2, 9, stop)
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        llama.generate_batch(requests)
    assert max(seen) == broken + 1  # of the row before the broken one
    ended = [requests[0], Request(requests[1].session, requests[1].query, broken)]
    assert len(llama.generate_batch(ended)[0]) == 9


def test_nothing_to_continue_is_an_error(llama: LongContextModel) -> None:
    requests = [Request(llama.prefill([]), Query(), 4), Request(llama.prefill([1]), Query(), 4)]
    with pytest.raises(ValueError, match="both empty"):
        llama.generate_batch(requests)


@pytest.mark.parametrize(
    ("shape", "attn", "replays"),
    [
        ({}, "sdpa", True),
        ({}, "eager", False),
        ({"model_type": "mistral", "sliding_window": 24, "head_dim": 8}, "sdpa", False),
        ({"model_type": "qwen3_moe", "pad_token_id": 0, **FAMILIES["qwen3_moe"]}, "sdpa", False),
    ],
)
def test_which_bases_are_replayed(
    shape: dict[str, Any], attn: str, replays: bool, monkeypatch: pytest.MonkeyPatch, steps: list[BatchStep]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
    model = method_cases.load(Case("full", {}, shape), attn=attn)
    assert batching._replays(model.model) == replays  # type: ignore[attr-defined]
    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cuda"}))
    assert not batching._replays(model.model)  # type: ignore[attr-defined]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from([1, 3]),
)
@settings(deadline=None, derandomize=True)
def test_a_tail_is_causal_attention(groups: list[tuple[int, int]], asked: int, heads: int) -> None:
    """groups: tokens of a context, and rows that share it. The rows' queries are of different lengths."""
    generator = torch.Generator().manual_seed(asked + 10 * len(groups))

    def drawn(*shape: int) -> torch.Tensor:
        return 2 * torch.randn(*shape, generator=generator)

    contexts, whole = list[batch_attention.Shared](), []
    for size, rows in groups:
        context = drawn(2, 1, 2, size, 8)
        start = len(whole)
        contexts.append((slice(start, start + rows), (context[0], context[1]) if size else None))
        whole += [context] * rows
    total, most = len(whole), asked + STEPPED
    query, new = drawn(total, 2 * heads, most, 8), drawn(2, total, 2, most, 8)
    tail = BatchTail(contexts, *torch.zeros(2, total, 2, most, 8))
    lengths = torch.arange(total) % asked + 1

    def wanted(row: int, count: int) -> torch.Tensor:
        keys, values = (torch.cat([whole[row][i], new[i, row : row + 1, :, :count]], 2) for i in range(2))
        mask = torch.ones(count, keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - count)
        args = query[row : row + 1, :, :count], keys, values
        return F.scaled_dot_product_attention(*args, attn_mask=mask, enable_gqa=True, scale=0.3)[0]

    cut = total // 2
    parts = [(0, cut), (cut, total)] if cut else [(0, total)]
    read = [tail.read(a, query[a:b, :, :asked], *new[:, a:b, :, :asked], 0.3) for a, b in parts]
    for index, got in enumerate(torch.cat(read)):
        torch.testing.assert_close(got, wanted(index, asked), atol=1e-5, rtol=1e-5)
    for step in range(STEPPED):  # what a row reads from its own length on takes the place of the padding
        at = lengths + step
        one = torch.arange(total), slice(None), at
        token = [x[one][:, :, None] for x in (query, *new)]
        got = tail.step(*token, 0.3, tail.place_of(at), tail.bias_of(at))
        for index in range(total):
            last = wanted(index, int(at[index]) + 1)[:, -1:]
            torch.testing.assert_close(got[index], last, atol=1e-5, rtol=1e-5)


# --- on a GPU: pytest -m gpu


@pytest.fixture
def launched_only() -> Iterator[Callable[[], pytest.MonkeyPatch]]:
    """Call it: from then on steps are launched on a GPU, not replayed."""
    with pytest.MonkeyPatch.context() as patch:

        def start() -> pytest.MonkeyPatch:
            patch.setattr(GraphRunner, "_captured", lambda self, kind: self._run())
            return patch

        yield start


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_gpu_graph_equals_launched_steps(
    name: str, dtype: str, launched_only: Callable[[], pytest.MonkeyPatch], steps: list[BatchStep]
) -> None:
    """The same tokens from replayed steps, from launched ones and, in float32, from requests one at a time."""
    model = method_cases.load(CASES[name], device="cuda", dtype=dtype)
    stop = Stop(frozenset(range(0, 250, 9)), min_new_tokens=5)
    requests = [*questions(model, 4, 20), *questions(model, 1, 20, stop), *questions(model, 2, 12)]
    replayed = model.generate_batch(requests)
    assert model.generate_batch(requests) == replayed
    assert len({*steps}) == 2
    if dtype == "float32":
        assert replayed == alone(requests)
    launched_only()
    assert model.generate_batch(requests) == replayed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_kernel_of_a_token_equals_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = method_cases.load(CASES["llama"], device="cuda", dtype="bfloat16")
    requests = [*questions(model, 4), *questions(model, 2)]
    step = batch_step.BatchStep(model.model, requests)  # type: ignore[attr-defined]
    calls, attend_more = [], row.attend_more
    monkeypatch.setattr(row, "attend_more", lambda *args: (calls.append(None), attend_more(*args))[1])
    with torch.inference_mode():
        step.read()
        fast = step.run().float()
        assert calls
        monkeypatch.setattr(row, "_fits", lambda x: False)
        plain = step.run().float()  # the same token once more, in the same places
    assert (fast - plain).abs().mean() < 0.1 * plain.std()
