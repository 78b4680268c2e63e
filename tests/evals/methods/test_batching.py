"""Several requests decoded together give the tokens that each gives alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baselines.dense import DenseSession, FullAttention
from evals.methods import presets
from evals.methods.base import Query, Request, Runtime, Stop


@pytest.fixture(scope="module")
def model(tiny_presets: Callable[..., Path]) -> FullAttention:
    return FullAttention.load(presets.load_preset(str(tiny_presets("full"))), Runtime())


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(256) for _ in range(count)]


def alone(requests: list[Request]) -> list[list[int]]:
    return [r.session.generate(r.query, r.max_new_tokens, r.stop) for r in requests]


@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 5))
def test_equal_to_one_at_a_time(model: FullAttention, seed: int, rows: int) -> None:
    rng = random.Random(seed)
    requests = []
    for _ in range(rows):
        session = model.prefill(tokens(rng, rng.randrange(60)), prefix_ids=[256])
        stop = Stop(ids=frozenset(tokens(rng, rng.randrange(80))), min_new_tokens=rng.randrange(3))
        requests.append(Request(session, Query(tokens(rng, rng.randrange(9))), rng.randrange(14), stop))
    assert model.generate_batch(requests) == alone(requests)


def test_questions_on_one_context(model: FullAttention) -> None:
    rng = random.Random(0)
    session = model.prefill(tokens(rng, 50))
    requests = [Request(session, Query(tokens(rng, 3 + i)), 10) for i in range(4)]
    expected = alone(requests)
    assert model.generate_batch(requests) == expected
    assert len({tuple(answer) for answer in expected}) > 1
    assert alone(requests) == expected  # the context is as it was


def test_every_request_stops_on_its_own(model: FullAttention) -> None:
    rng = random.Random(1)
    session = model.prefill(tokens(rng, 20))
    requests = [
        Request(session, Query([1]), 9, Stop(when=lambda new: len(new) == 2)),
        Request(session, Query([2]), 5),
        Request(session, Query([3]), 0),
    ]
    assert [len(new) for new in model.generate_batch(requests)] == [2, 5, 0]


def test_the_steps_are_taken_together(model: FullAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    sessions = [model.prefill(tokens(rng, 10 + i)) for i in range(3)]
    steps = []
    monkeypatch.setattr(DenseSession, "generate", lambda *_: pytest.fail("decoded alone"))
    forward = model.model.base_model.forward
    monkeypatch.setattr(
        model.model.base_model, "forward", lambda **kw: steps.append(tuple(kw["input_ids"].shape)) or forward(**kw)
    )
    model.generate_batch([Request(session, Query([5, 6]), 4) for session in sessions])
    assert steps == [(3, 1)] * 3  # contexts and queries are read elsewhere, one by one
