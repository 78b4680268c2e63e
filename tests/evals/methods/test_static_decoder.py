"""Decoding with static steps: the same logits as one forward per token, nothing that depends on the host, graphs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import method_cases
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import BOS, CASES, CONTEXT, QUERY, Case
from test_recipes import FAMILIES, METHODS
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.cepe import row as cepe_row
from evals.methods.base import LongContextModel, NotFiniteError, Query, Stop
from evals.methods.decoding import session as decoding
from evals.methods.decoding.cuda_graph import Arrival, GraphRunner
from evals.methods.decoding.session import CachedSession
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep
from sharedllm.nn import flash_decoding, launch, row
from sharedllm.nn.layers import Decoder

NEW = 24
WINDOWED = {"model_type": "mistral", "sliding_window": 24, "head_dim": 8}
MORE = {
    "mistral": Case("full", {}, WINDOWED),
    "mistral-short": Case("full", {}, WINDOWED | {"sliding_window": 5}),
    "qwen3": Case("full", {}, {"model_type": "qwen3", "head_dim": 16}),
    "qwen2-mixed": Case(
        "full",
        {},
        {
            "model_type": "qwen2",
            "use_sliding_window": True,
            "sliding_window": 20,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
    "streaming-token-fills": Case("streaming_llm", {"sinks": 2, "recent": 60, "regime": "token"}),
    "streaming-no-sinks": Case("streaming_llm", {"sinks": 0, "recent": 9, "regime": "token"}),
    "sharedllm-joint-mistral": Case(
        "sharedllm", {"chunk_size": 16, "ratios": [4, 2], "lower_layers": 1, "attention": "joint"}, WINDOWED
    ),
    "sharedllm-mistral": Case(
        "sharedllm", {"chunk_size": 16, "ratios": [4, 2], "lower_layers": 1, "policy": "last_token"}, WINDOWED
    ),
}
MORE["longllama-padded-heads"] = Case(
    "longllama", CASES["longllama"].settings, CASES["longllama"].shape | {"head_dim": 6}
)
MORE |= {
    family: Case("full", {}, {"model_type": family, "pad_token_id": 0, **fields}) for family, fields in FAMILIES.items()
}
del MORE["qwen3_moe"]  # a mixture of experts decodes without graphs
MORE |= {
    "streaming-smollm3": Case(
        *METHODS["streaming"], {"model_type": "smollm3", "pad_token_id": 0, **FAMILIES["smollm3"]}
    ),
    "kvpress-gemma3": Case(
        "kvpress", {"press": "snapkv", "window_size": 8}, {"model_type": "gemma3_text", **FAMILIES["gemma3_text"]}
    ),
    "kvpress-masked-gemma3": Case(
        "kvpress", CASES["kvpress-masked"].settings, {"model_type": "gemma3_text", **FAMILIES["gemma3_text"]}
    ),
    "sharedllm-gemma3": Case(*METHODS["sharedllm"], {"model_type": "gemma3_text", **FAMILIES["gemma3_text"]}),
    "sharedllm-joint-gemma3": Case(
        "sharedllm",
        METHODS["sharedllm"][1] | {"attention": "joint"},
        {"model_type": "gemma3_text", **FAMILIES["gemma3_text"]},
    ),
}
ALL = CASES | MORE
del ALL["llmlingua"]  # its base decodes as `full` does, and its compressor is on the hub


def load(name: str, **runtime: Any) -> LongContextModel:
    return method_cases.load(ALL[name], **runtime)


@pytest.fixture(scope="module", params=ALL)
def model(request: pytest.FixtureRequest) -> Iterator[LongContextModel]:
    return load(request.param)


class Recorder:
    """Logits after every generated token, and how many of them came from static steps."""

    def __init__(self, patch: pytest.MonkeyPatch, graphs_on: str = "cpu", fewest: int = 1, longest: int = 256) -> None:
        self.logits: list[torch.Tensor] = []
        self.static = 0
        self.runners: set[GraphRunner] = set()
        after, launch = CachedSession._after, GraphRunner._launch

        def forward(session: CachedSession, token: int, left: int) -> torch.Tensor:
            logits = after(session, token, left)
            self.logits.append(logits[0].float().cpu())
            return logits

        def launched(runner: GraphRunner) -> torch.Tensor:
            logits = launch(runner)
            self.logits.append(logits[0].float().cpu())
            self.static += 1
            self.runners.add(runner)
            return logits

        patch.setattr(CachedSession, "_after", forward)
        patch.setattr(GraphRunner, "_launch", launched)
        patch.setattr(decoding, "GRAPH_DEVICES", frozenset({graphs_on}))
        patch.setattr(decoding, "FEWEST", fewest)
        patch.setattr(decoding, "LONGEST", longest)


def generate(session: Any, query: Query = QUERY, **recorder: Any) -> tuple[list[int], Recorder]:
    with pytest.MonkeyPatch.context() as patch:
        record = Recorder(patch, **recorder)
        return session.generate(query, NEW), record


def test_static_steps_equal_one_forward_per_token(model: LongContextModel) -> None:
    """The same logits and tokens, and the same session afterwards."""
    plain, fixed = (model.prefill(CONTEXT, BOS) for _ in range(2))
    wanted, forwards = generate(plain, graphs_on="none")
    got, steps = generate(fixed, longest=7)
    assert forwards.static == 0
    assert steps.static >= 0.8 * NEW
    assert len(steps.runners) >= NEW // 8
    torch.testing.assert_close(torch.stack(steps.logits), torch.stack(forwards.logits), atol=1e-4, rtol=1e-5)
    assert got == wanted
    assert fixed.state_bytes == plain.state_bytes
    scores = (session.score(QUERY, [1, 2, 3]) for session in (fixed, plain))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


class Operations(TorchDispatchMode):
    """What is executed: names, shapes and plain arguments; reading a value on the host is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value went to the host"
        self.seen.append((func, torch.utils._pytree.tree_map(_describe, (args, kwargs))))
        return func(*args, **(kwargs or {}))


def _describe(x: Any) -> Any:
    return (x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else x


def test_steps_of_a_kind_do_the_same_operations(model: LongContextModel) -> None:
    """What a graph replays: equal operations with equal arguments, the values of tensors aside. The choice of the token
    is one of them."""
    by_run: dict[Any, list[list[Any]]] = {}
    launch = GraphRunner._launch

    def recorded(runner: GraphRunner) -> torch.Tensor:
        kind = runner.step.kind
        with Operations() as operations:
            logits = launch(runner)
        by_run.setdefault((runner, kind), []).append(operations.seen)
        return logits

    session = model.prefill(CONTEXT, BOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphRunner, "_launch", recorded)
        record = Recorder(patch)
        session.generate(QUERY, 10)
    assert record.static
    assert any(len(runs) > 1 for runs in by_run.values())
    for runs in by_run.values():
        assert all(operations == runs[0] for operations in runs[1:])


@pytest.mark.parametrize("stop", [Stop(frozenset(range(0, 300, 9)), 5), Stop(when=lambda new: len(new) == 9)])
def test_stopping_is_as_without(stop: Stop) -> None:
    session = load("sharedllm").prefill(CONTEXT, BOS)
    tokens: list[list[int]] = [[], []]
    answers = []
    for graphs_on, seen in zip(("none", "cpu"), tokens, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            Recorder(patch, graphs_on=graphs_on)
            answers.append(session.generate(QUERY, NEW, stop, seen.append))
    assert tokens[0] == tokens[1]
    assert answers[0] == answers[1]
    assert 5 <= len(answers[0]) < NEW


@pytest.mark.parametrize("least", [0, 3])
def test_the_device_reads_on_before_the_host_knows(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is launched before the token of the one before it has arrived, unless the host has to choose that token;
    none is launched that nobody can want."""
    events: list[str] = []
    launch, values = GraphRunner._launch, Arrival.values
    monkeypatch.setattr(GraphRunner, "_launch", lambda runner: (events.append("launch"), launch(runner))[1])
    monkeypatch.setattr(Arrival, "values", lambda arrival: (events.append("arrived"), values(arrival))[1])
    Recorder(monkeypatch)
    session = load("full").prefill(CONTEXT)
    session.generate(QUERY, 8, Stop(frozenset({0}), least), lambda token: events.append("known"))
    first = ["known", *["launch", "known"] * max(0, least - 1)]
    ahead = 7 - max(0, least - 1)
    assert events == [*first, "launch", *["launch", "arrived", "known"] * (ahead - 1), "arrived", "known"]


def test_a_token_too_many_is_lost(model: LongContextModel) -> None:
    """A stop leaves a session as it was, although the device has read on."""
    session = model.prefill(CONTEXT, BOS)
    whole, _ = generate(session, graphs_on="none")
    before = session.score(QUERY, [1, 2, 3])
    for length in (1, 2, 9, NEW):
        stop = Stop(when=lambda new, length=length: len(new) == length)  # type: ignore[misc]  # mypy: a default
        with pytest.MonkeyPatch.context() as patch:
            Recorder(patch, longest=7)
            assert session.generate(QUERY, NEW, stop) == whole[:length]
    torch.testing.assert_close(session.score(QUERY, [1, 2, 3]), before, atol=1e-5, rtol=1e-5)


def test_logits_that_are_not_finite_are_found_at_the_token_that_they_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = DecoderStep.run, list[int]()
    Recorder(monkeypatch)

    def broken(step: DecoderStep[Decoder]) -> torch.Tensor:
        return run(step) * (torch.nan if step.count == 3 else 1)

    monkeypatch.setattr(DecoderStep, "run", broken)
    session = load("full").prefill(CONTEXT)
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        session.generate(QUERY, NEW, on_token=seen.append)
    assert len(seen) == 4


def test_few_tokens_and_other_decoders_take_forwards() -> None:
    session = load("full").prefill(CONTEXT)
    assert generate(session, fewest=NEW)[1].static == 0
    assert generate(session, fewest=NEW - 1)[1].static == NEW - 1
    eager = load("full", attn="eager")
    assert generate(eager.prefill(CONTEXT))[1].static == 0
    assert eager.fairness["decode"] == "eager"


@given(
    st.integers(0, 20),
    st.integers(1, 70),
    st.sampled_from([None, 1, 4, 9, 30, 100]),
    st.sampled_from([1, 3]),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_a_tail_is_attention_in_a_window(held: int, tokens: int, window: int | None, groups: int, pinned: int) -> None:
    """Every token of a run sees what a mask over all keys lets it see; kept as they are: `pinned` keys before."""
    generator = torch.Generator().manual_seed(held + tokens)
    keys, values = 2 * torch.randn(2, 1, 2, pinned + held + tokens, 8, generator=generator)
    query = 2 * torch.randn(1, 2 * groups, tokens, 8, generator=generator)
    position = torch.arange(held + tokens)
    seen = position <= position[held:, None]
    if window is not None:
        seen &= position > position[held:, None] - window
    seen = torch.cat([torch.ones(tokens, pinned, dtype=torch.bool), seen], 1)
    wanted = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, enable_gqa=True, scale=0.3)

    reach = Reach(held, tokens, window, torch.device("cpu"), pinned)
    before, old = slice(pinned, pinned + held), slice(0, pinned)
    tail = Tail(reach, (keys[:, :, before], values[:, :, before]), (keys[:, :, old], values[:, :, old]))
    for number in range(tokens):
        at, new = torch.tensor([number]), slice(pinned + held + number, pinned + held + number + 1)
        tail.write(at + reach.offset, keys[:, :, new], values[:, :, new])
        got = tail.attend(query[:, :, number : number + 1], reach.bias(at), 0.3)
        torch.testing.assert_close(got, wanted[:, :, number : number + 1], atol=1e-5, rtol=1e-5)
    assert torch.equal(tail.new(tokens)[1], values[:, :, pinned + held :])


@pytest.mark.parametrize("fits", [True, False])
def test_longllama_attends_by_its_kernels_where_they_fit(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To what is held, and to its own keys and values, stored as they say; memory layers keep raw keys, too."""
    raws = []

    def attend(query: Any, key: Any, value: Any, rotation: Any, place: Any, *state: Any) -> torch.Tensor:
        held, new, scale, raw = state
        reach = Reach(held[0].shape[2], new[0].shape[2], None, place.device)
        tail = Tail(reach, held)
        tail.keys, tail.values, tail.raw = *new, raw
        raws.append(raw is not None)
        return tail.attend(tail.take(query, key, value, place, rotation), reach.bias(place), scale)

    session = load("longllama-padded-heads").prefill(CONTEXT, BOS)
    wanted, forwards = generate(session, graphs_on="none")
    monkeypatch.setattr(flash_decoding, "fits", lambda *args: fits)
    monkeypatch.setattr(flash_decoding, "attend", attend)
    got, steps = generate(session)
    assert steps.static
    torch.testing.assert_close(torch.stack(steps.logits), torch.stack(forwards.logits), atol=1e-4, rtol=1e-5)
    assert got == wanted
    assert set(raws) == ({True, False} if fits else set())


# the interpreter of Triton 3.6 runs no loops with bounds like CEPE's under numpy 2.4; that of 3.9 does
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("name", ["full", "cepe", "longllama", "longllama-shared-heads", "longllama-padded-heads"])
def test_steps_of_kernels_equal_forwards(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(name).prefill(CONTEXT, BOS)
    wanted, forwards = generate(session, graphs_on="none")
    monkeypatch.setattr(row, "_fits", lambda x: True)
    monkeypatch.setattr(launch, "launches_on", lambda x: nullcontext())
    monkeypatch.setattr(cepe_row, "_has_room", lambda device: True)
    calls, attend = [], flash_decoding.attend
    monkeypatch.setattr(flash_decoding, "attend", lambda *args: (calls.append(None), attend(*args))[1])
    got, steps = generate(session)
    assert steps.static
    assert bool(calls) == name.startswith("longllama")
    torch.testing.assert_close(torch.stack(steps.logits), torch.stack(forwards.logits), atol=1e-4, rtol=1e-5)
    assert got == wanted


# --- on a GPU: pytest -k gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_gpu_graph_equals_forwards(name: str, dtype: str) -> None:
    model = load(name, device="cuda", dtype=dtype)
    assert model.fairness["decode"] == "cuda graph"
    session = model.prefill(CONTEXT, BOS)
    wanted, plain = generate(session, graphs_on="none")
    before = session.score(QUERY, [1, 2, 3])
    got, fixed = generate(session, graphs_on="cuda", fewest=8)
    assert fixed.static
    assert torch.equal(session.score(QUERY, [1, 2, 3]), before)
    assert generate(session, graphs_on="cuda", fewest=8)[0] == got
    same = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b), NEW)
    one, other = (torch.stack(record.logits[:same]) for record in (fixed, plain))
    if dtype == "float32":
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
        assert got == wanted
    else:
        assert (one - other).abs().mean() < 0.2 * other.std()  # sums in another order, rounded to 8 bits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "name",
    [
        *("full", "mistral-short", "qwen3", "sharedllm", "sharedllm-joint", "cepe", "beacon"),
        *("longllama", "longllama-shared-heads", "longllama-padded-heads"),
    ],
)
def test_gpu_kernels_of_a_row_equal_plain_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(name, device="cuda", dtype="bfloat16").prefill(CONTEXT, BOS)
    calls: list[str] = []
    for module, kernel in ((row, "attend_more"), (flash_decoding, "attend")):
        own = getattr(module, kernel)
        monkeypatch.setattr(module, kernel, lambda *args, own=own, kernel=kernel: (calls.append(kernel), own(*args))[1])
    fast = generate(session, graphs_on="cuda")[1].logits
    assert set(calls) == {"attend" if name.startswith("longllama") else "attend_more"}
    made = len(calls)
    monkeypatch.setattr(row, "_fits", lambda x: False)
    plain = generate(session, graphs_on="cuda")[1].logits
    assert len(calls) == made
    assert (fast[0] - plain[0]).abs().mean() < 0.1 * plain[0].std()
