"""What a method says of itself: cost, state, fairness record and trace; and that no method is left out."""

from __future__ import annotations

import json

import pytest
from method_cases import (
    CASES,
    CONTEXT,
    QUERY,
)

from evals import registry
from evals.methods.base import LongContextModel


@pytest.mark.parametrize("length", [0, 1, 2, 13, 28, 45])
def test_state_bytes_are_as_cost_says(model: LongContextModel, length: int) -> None:
    session = model.prefill(CONTEXT[:length])
    session.generate(QUERY, 2)
    assert session.state_bytes == model.cost(length, 0).state_bytes


def test_cost_grows(model: LongContextModel) -> None:
    short, long = model.cost(10, 4), model.cost(40, 4)
    assert 0 < short.prefill_flops < long.prefill_flops
    assert min(short.decode_flops, long.decode_flops) > 0
    assert 0 < long.state_bytes < long.decode_bytes


def test_two_settings_of_sharedllm_have_the_same_fairness_keys(tiny_llama) -> None:
    """Whole leaves in all chunks, as the paper has them, or in the best: a table of both has no gaps."""
    from transformers import AutoConfig

    from evals.methods.sharedllm import fairness
    from sharedllm import SharedLLMConfig

    base = AutoConfig.from_pretrained(tiny_llama)
    given = {"chunk_size": 16, "ratios": [8, 1], "lower_layers": 2, "policy": "maxsim"}
    all_, best = (fairness(SharedLLMConfig(base_config=base, **given, **more)) for more in ({}, {"fine_chunks": 2}))
    assert list(all_) == list(best)
    assert all_["fine chunks"] == "all"
    assert all_["entries of others"] == all_["entries a chunk"]
    assert best["fine chunks"] == 2
    assert best["entries of others"] < best["entries a chunk"]


def test_budget_is_a_fairness_record(model: LongContextModel) -> None:
    assert {"kernel", "decode", "dtype", "trained"} <= model.fairness.keys()
    assert json.loads(json.dumps(model.fairness)) == model.fairness


def test_trace_is_json(model: LongContextModel) -> None:
    session = model.prefill(CONTEXT)
    session.generate(QUERY, 1)
    json.dumps(session.trace())


def test_every_registered_method_is_here() -> None:
    """A served model has no log-probabilities to check; tests/baselines/served has what it owes."""
    assert set(registry.METHODS) - {case.method for case in CASES.values()} == {"served"}
    assert registry.method("served").remote
