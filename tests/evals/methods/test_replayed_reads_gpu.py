"""Rivals' reads in CUDA graphs: the numbers of launched ones, and memory that is given back. `pytest -m gpu`"""

from __future__ import annotations

import gc

import pytest
import torch
from method_cases import BOS, OTHER_QUERY, QUERY, TARGET
from test_replayed_reads import CONTEXTS, HALF, REPLAYED, answers, equal, loaded

from evals.methods.base import Session
from evals.methods.decoding import replays
from evals.methods.decoding.replays import ReplayingModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def graphs(model: ReplayingModel) -> int:
    return sum(entry.graph is not None for entry in model.reader._replays._entries.values())


def dtype(name: str) -> str:
    return "bfloat16" if name in HALF else "float32"


@pytest.mark.parametrize("name", [name for name in REPLAYED if name not in HALF])
def test_gpu_graphs_are_launched_reads(name: str) -> None:
    """Each context three times in turns: launched, captured with other inputs than it is replayed with, replayed."""
    model, plain = loaded(name, device="cuda")
    assert (model.fairness["read"], plain.fairness["read"]) == ("cuda graph", "eager")
    assert (model.replays, plain.replays) == (True, False)
    wanted = [answers(plain.prefill(context, BOS)) for context in CONTEXTS]
    tolerance = 2e-3 if name.startswith("longllama") else 1e-4  # memory is rounded to bfloat16
    for _ in range(3):
        sessions = [model.prefill(context, BOS) for context in CONTEXTS]
        for session, other in zip(sessions, wanted, strict=True):
            equal(answers(session), other, tolerance)
        for session, other in zip(sessions, wanted, strict=True):  # what an earlier session holds is its own
            equal(answers(session), other, tolerance)
    assert graphs(model)


@pytest.mark.parametrize("name", HALF)
def test_gpu_graphs_in_half_precision_are_launched_reads(name: str) -> None:
    """As above; rounding differs, so both are compared with float32, of which nothing is replayed."""
    (model, plain), (single, _) = loaded(name, device="cuda", dtype="float16"), loaded(name, device="cuda")
    modes = [(x.fairness["read"], x.replays) for x in (model, plain, single)]
    assert modes == [("cuda graph", True), ("eager", False), ("eager", False)]

    def scores(session: Session) -> torch.Tensor:
        return torch.cat([session.score(query, TARGET) for query in (QUERY, OTHER_QUERY, QUERY)])

    exact = [scores(single.prefill(context, BOS)) for context in CONTEXTS]
    launched = [scores(plain.prefill(context, BOS)) for context in CONTEXTS]
    allowed = 2 * max((x - y).abs().max().item() for x, y in zip(launched, exact, strict=True)) + 0.02
    assert allowed < 0.5
    first: list[torch.Tensor] = []
    for _ in range(3):
        sessions = [model.prefill(context, BOS) for context in CONTEXTS]
        for _ in range(2):  # what an earlier session holds is its own
            found = [scores(session) for session in sessions]
            first = first or found
            for got, other, wanted in zip(found, first, exact, strict=True):
                assert (got - wanted).abs().max() < allowed
                torch.testing.assert_close(got, other, atol=1e-2, rtol=0)
    assert graphs(model)
    answers = [[m.prefill(context, BOS).generate(QUERY, 20) for m in (model, plain)] for context in CONTEXTS]
    assert sum(got == wanted for got, wanted in answers) > len(CONTEXTS) // 2  # near ties may fall either way


@pytest.mark.parametrize("name", REPLAYED)
def test_gpu_graphs_in_bfloat16(name: str) -> None:
    """Kernels of half precision: launched and replayed ones are the same."""
    model, _ = loaded(name, device="cuda", dtype="bfloat16")
    first, *others = (model.prefill(CONTEXTS[2], BOS).score(QUERY, TARGET) for _ in range(4))
    assert graphs(model)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", REPLAYED)
def test_gpu_memory_of_graphs_is_given_back(name: str) -> None:
    def read() -> ReplayingModel:
        model, _ = loaded(name, device="cuda", dtype=dtype(name))
        for _ in range(3):
            model.prefill(CONTEXTS[2], BOS).score(QUERY, TARGET)
        assert graphs(model)
        return model

    def used() -> tuple[int, int]:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    read()  # what stays: the first graph and workspaces
    before = used()
    model = read()
    held = used()
    model.forget()
    assert graphs(model) == 0
    assert all(now <= then for now, then in zip(used(), held, strict=True))
    for _ in range(2):  # and graphs again, in a new pool
        model.prefill(CONTEXTS[2], BOS).score(QUERY, TARGET)
    assert graphs(model)
    del model
    assert all(now <= then for now, then in zip(used(), before, strict=True))


@pytest.mark.parametrize("name", REPLAYED)
def test_gpu_without_free_memory_reads_are_launched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "enough_free", lambda need: False)
    model, _ = loaded(name, device="cuda", dtype=dtype(name))
    first, *others = (model.prefill(CONTEXTS[2], BOS).score(QUERY, TARGET) for _ in range(3))
    assert graphs(model) == 0
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-6, rtol=1e-6)
