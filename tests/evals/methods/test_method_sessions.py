"""A context is read once and asked many times; sessions and the rows of a batch never see each other."""

from __future__ import annotations

from method_cases import (
    BOS,
    CONTEXT,
    OTHER_QUERY,
    QUERY,
    TARGET,
    close,
)

from evals.methods.base import LongContextModel, Query, Request, Stop


def test_read_once_ask_many(model: LongContextModel) -> None:
    session = model.prefill(CONTEXT, BOS)
    first = session.score(QUERY, TARGET)
    answer = session.generate(OTHER_QUERY, 7)
    second = session.score(OTHER_QUERY, TARGET)
    close(session.score(QUERY, TARGET), first)
    close(first, model.prefill(CONTEXT, BOS).score(QUERY, TARGET))
    close(second, model.prefill(CONTEXT, BOS).score(OTHER_QUERY, TARGET))
    assert answer == model.prefill(CONTEXT, BOS).generate(OTHER_QUERY, 7)


def test_batch_equals_single(model: LongContextModel) -> None:
    one, other = model.prefill(CONTEXT, BOS), model.prefill(CONTEXT[:9])
    requests = [
        Request(one, QUERY, 7),
        Request(other, OTHER_QUERY, 3),
        Request(one, OTHER_QUERY, 5),
        Request(other, Query(), 5, Stop(frozenset(other.generate(Query(), 3)[2:]))),
    ]
    alone = [r.session.generate(r.query, r.max_new_tokens, r.stop) for r in requests]
    assert model.generate_batch(requests) == alone
    assert model.generate_batch(requests[::-1]) == alone[::-1]


def test_two_sessions_do_not_meet(model: LongContextModel) -> None:
    one, other = model.prefill(CONTEXT), model.prefill(CONTEXT[:9])
    before = one.score(QUERY, TARGET)
    other.score(OTHER_QUERY, TARGET)
    close(one.score(QUERY, TARGET), before)
