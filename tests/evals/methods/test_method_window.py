"""A method against dense attention: the same where its window holds everything, another thing beyond."""

from __future__ import annotations

import pytest
from method_cases import (
    BOS,
    CASES,
    CONTEXT,
    QUERY,
    TARGET,
    TOLERANCE,
    close,
    dense_base,
    load,
)

from evals.methods.base import LongContextModel, Query


def test_equals_dense_within_the_window(name: str, model: LongContextModel) -> None:
    case = CASES[name]
    if not case.dense_up_to:
        pytest.skip("never equals dense attention, by design")
    dense = load(dense_base(case))
    context = CONTEXT[: max(0, min(case.dense_up_to, 60) - len(BOS) - len(QUERY.ids) - 5)]
    got, wanted = (m.prefill(context, BOS).score(QUERY, TARGET[:5]) for m in (model, dense))
    close(got, wanted)


def test_leaves_dense_beyond_the_window(name: str, model: LongContextModel) -> None:
    case = CASES[name]
    if case.method == "full" or case.dense_up_to > 45:
        pytest.skip("the test's context fits the window")
    dense = load(dense_base(case, max_position_embeddings=64))
    difference = model.prefill(CONTEXT).score(QUERY, TARGET) - dense.prefill(CONTEXT).score(QUERY, TARGET)
    assert difference.abs().max() > 100 * TOLERANCE


def test_borders_do_not_matter(name: str, model: LongContextModel) -> None:
    if not CASES[name].one_stream:
        pytest.skip("context and query are read differently, by design")
    stream = [*BOS, *CONTEXT, *QUERY.ids]
    whole = model.prefill(CONTEXT, BOS).score(QUERY, TARGET)
    for cut in (0, 1, 20, len(stream)):
        close(model.prefill(stream[:cut]).score(Query(stream[cut:]), TARGET), whole)
