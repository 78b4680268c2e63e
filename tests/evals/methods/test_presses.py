"""The acceptance matrix for every press of kvpress."""

from __future__ import annotations

from typing import Any

import pytest
import test_method_answers
import test_method_records
import test_method_sessions
import torch
from method_cases import BOS, CONTEXT, QUERY, TARGET, Case, load
from presses import PRESSES, WHOLE
from test_recipes import FAMILIES

from evals.methods.base import Query

GEMMA = {"model_type": "gemma3_text", "pad_token_id": 0, **FAMILIES["gemma3_text"]}


@pytest.mark.parametrize(
    ("press", "shape"),
    [(press, {}) for press in PRESSES] + [(press, GEMMA) for press in PRESSES if press not in WHOLE],
    ids=lambda value: value if isinstance(value, str) else value.get("model_type", "llama"),
)
def test_a_press_keeps_what_every_method_must(press: str, shape: dict[str, Any]) -> None:
    """The quick ones of the properties; a press for each form of state runs all of them (`CASES`)."""
    case = Case("kvpress", {"press": press, **PRESSES[press]}, shape)
    method, again = load(case), load(case)
    test_method_answers.test_cached_equals_uncached(method)
    test_method_sessions.test_two_sessions_do_not_meet(method)
    test_method_records.test_budget_is_a_fairness_record(method)
    test_method_records.test_trace_is_json(method)
    test_method_answers.test_odd_sizes(method, [], [9], Query())
    one, other = method.prefill(CONTEXT, BOS), again.prefill(CONTEXT, BOS)
    assert torch.equal(one.score(QUERY, TARGET), other.score(QUERY, TARGET)), "random numbers must be those of the seed"
    answer = one.generate(QUERY, 4)
    assert other.score_greedy(QUERY, answer)[1]
    for length in (0, 1, 13, 45):
        found, formula = method.prefill(CONTEXT[:length]).state_bytes, method.cost(length, 0).state_bytes
        assert found <= formula if press in ("simlayerkv", "chunkkv:snapkv") else found == formula
