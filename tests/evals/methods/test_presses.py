"""The acceptance matrix for every press of kvpress."""

from __future__ import annotations

import pytest
import test_method_answers
import test_method_records
import test_method_sessions
import torch
from method_cases import BOS, CONTEXT, QUERY, TARGET, Case, load
from presses import PRESSES

from evals.methods.base import Query


@pytest.mark.parametrize("press", PRESSES)
def test_a_press_keeps_what_every_method_must(press: str) -> None:
    """The quick ones of the properties; a press for each form of state runs all of them (`CASES`)."""
    case = Case("kvpress", {"press": press, **PRESSES[press]})
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
