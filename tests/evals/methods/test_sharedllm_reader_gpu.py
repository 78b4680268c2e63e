"""Reads of SharedLLM in CUDA graphs: the numbers of launched ones, and memory that is given back. `pytest -m gpu`"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from method_cases import BOS, CONTEXT, QUERY, TARGET
from test_sharedllm_reader import CONTEXTS, REPLAYED, answers, equal, loaded

from evals.methods import sharedllm_reader
from evals.methods.base import Query
from evals.methods.decoding import replays
from evals.methods.sharedllm import SharedLLM

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def graphs(model: SharedLLM) -> int:
    return sum(entry.graph is not None for entry in model.reader._replays._entries.values())


@pytest.mark.parametrize("name", REPLAYED)
def test_gpu_graphs_are_plain_reads(name: str) -> None:
    """Each context three times in turns: launched, captured with other inputs than it is replayed with, replayed."""
    model, plain = (loaded(s, device="cuda") for s in (REPLAYED[name], {**REPLAYED[name], "eager_reads": True}))
    assert (model.fairness["read"], plain.fairness["read"]) == ("cuda graph", "eager")
    wanted = [answers(plain.prefill(context, BOS)) for context in CONTEXTS]
    first: list[list[Any]] = []
    for turn in range(3):
        sessions = [model.prefill(context, BOS) for context in CONTEXTS]
        found = [answers(session) for session in sessions]
        for got, other in zip(found, wanted, strict=True):
            equal(got, other, 1e-4)
        first = first or found
        for got, other in zip(found, first, strict=True):
            equal(got, other, 1e-6)
        for session, other in zip(sessions, wanted, strict=True):  # what an earlier session holds is its own
            equal(answers(session), other, 1e-4)
        assert graphs(model) or turn == 0
    before, longer = graphs(model), Query([i % 250 for i in range(90)], question=(2, 75))
    for context, query in ((CONTEXT[:30], QUERY), (CONTEXT[:30], longer), (CONTEXT, longer)):
        other = plain.prefill(context).score(query, TARGET)
        for _ in range(3):
            torch.testing.assert_close(model.prefill(context).score(query, TARGET), other, atol=1e-4, rtol=1e-4)
    assert graphs(model) > before


def test_gpu_graphs_in_bfloat16() -> None:
    """Kernels of half precision: launched and replayed ones are the same."""
    model = loaded(REPLAYED["maxsim-overlap"], device="cuda", dtype="bfloat16")
    first, *others = (model.prefill(CONTEXT, BOS).score(QUERY, TARGET) for _ in range(4))
    assert graphs(model)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-2, rtol=1e-2)


def test_gpu_memory_of_graphs_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> SharedLLM:
        model = loaded(REPLAYED["maxsim"], device="cuda")
        for _ in range(3):
            model.prefill(CONTEXT, BOS).score(QUERY, TARGET)
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
    with monkeypatch.context() as patch:
        patch.setattr(sharedllm_reader, "MOST_FLOPS", 0)
        model.prefill(CONTEXT[:30], BOS).score(QUERY, TARGET)  # a long read
    assert graphs(model) == 0
    assert all(now < then for now, then in zip(used(), held, strict=True))
    for _ in range(3):  # and graphs again, in a new pool
        model.prefill(CONTEXT, BOS).score(QUERY, TARGET)
    assert graphs(model)
    del model
    assert all(now <= then for now, then in zip(used(), before, strict=True))


def test_gpu_graphs_give_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no bytes to hold there is one graph at a time, and each is right after the others were captured."""
    monkeypatch.setattr(replays, "HELD", 0)
    model, plain = (loaded(REPLAYED["maxsim"] | more, device="cuda") for more in ({}, {"eager_reads": True}))
    for _ in range(4):
        for size in (20, 45):
            got, wanted = (m.prefill(CONTEXT[:size], BOS).score(QUERY, TARGET) for m in (model, plain))
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
            assert graphs(model) < 2
    assert graphs(model) == 1


def test_gpu_without_free_memory_reads_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharedllm_reader, "NEED", 1 << 50)
    model = loaded(REPLAYED["maxsim"], device="cuda")
    scores = [model.prefill(CONTEXT, BOS).score(QUERY, TARGET) for _ in range(3)]
    assert graphs(model) == 0
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], atol=1e-6, rtol=1e-6)
