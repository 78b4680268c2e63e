"""What a method answers and scores: log-probabilities, greedily continued, the same whenever it is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_cases import (
    BOS,
    CASES,
    CONTEXT,
    QUERY,
    SHAPE,
    TARGET,
    TOLERANCE,
    close,
    load,
    stepwise,
)

from evals.methods.base import LongContextModel, Query, Stop


def test_cached_equals_uncached(model: LongContextModel) -> None:
    together = model.prefill(CONTEXT, BOS).score(QUERY, TARGET)
    assert together.shape == (len(TARGET),)
    assert together.dtype == torch.float32
    close(together, stepwise(model.prefill(CONTEXT, BOS), QUERY, TARGET))


def test_scores_are_log_probabilities(name: str, model: LongContextModel) -> None:
    if name != next(other for other, case in CASES.items() if case.method == CASES[name].method):
        pytest.skip("300 scores: one case per method is enough")
    session = model.prefill(CONTEXT[:20])
    every = torch.cat([session.score(QUERY, [token]) for token in range(SHAPE["vocab_size"])])
    assert every.exp().sum().item() == pytest.approx(1, abs=1e-3)
    assert session.generate(QUERY, 1) == [int(every.argmax())]


def test_generation_is_greedy_and_repeats(model: LongContextModel) -> None:
    session, seen = model.prefill(CONTEXT, BOS), []
    answer = session.generate(QUERY, 10, on_token=seen.append)
    assert len(answer) == 10
    assert seen == answer
    assert session.generate(QUERY, 10) == answer
    for i, token in enumerate(answer):
        assert session.generate(Query([*QUERY.ids, *answer[:i]], QUERY.question), 1) == [token]
    assert session.score_greedy(QUERY, answer)[1]
    assert not session.score_greedy(QUERY, [*answer[:-1], (answer[-1] + 1) % 250])[1]


def test_generation_stops(model: LongContextModel) -> None:
    session = model.prefill(CONTEXT)
    answer = session.generate(QUERY, 6)
    stop = answer[3]
    assert session.generate(QUERY, 6, Stop(frozenset({stop}))) == answer[: answer.index(stop)]


def test_context_matters(name: str, model: LongContextModel) -> None:
    """The weights are such that a mistake shows: another last context token moves the scores."""
    changed = [*CONTEXT[:-1], (CONTEXT[-1] + 1) % 250]
    one, other = (model.prefill(context).score(QUERY, TARGET) for context in (CONTEXT, changed))
    assert (one - other).abs().max() > 100 * TOLERANCE


def test_long_target_equals_sum_of_pieces(model: LongContextModel) -> None:
    session = model.prefill(CONTEXT[:30], BOS)
    long = [*TARGET, *TARGET[::-1]]
    for cut in (1, 7, 20):
        rest = session.score(Query([*QUERY.ids, *long[:cut]], QUERY.question), long[cut:])
        close(torch.cat([session.score(QUERY, long[:cut]), rest]), session.score(QUERY, long))


@pytest.mark.parametrize("prefix", [[], BOS], ids=["no-bos", "bos"])
@pytest.mark.parametrize("context", [[], [9], CONTEXT], ids=["empty", "one-token", "long"])
@pytest.mark.parametrize("query", [Query(), Query([31]), QUERY], ids=["no-query", "one-token", "query"])
def test_odd_sizes(model: LongContextModel, prefix: list[int], context: list[int], query: Query) -> None:
    session = model.prefill(context, prefix)
    if not (prefix or context or query.ids):
        with pytest.raises(ValueError, match="empty"):
            session.generate(query, 3)
        with pytest.raises(ValueError, match="empty"):
            session.score(query, TARGET)
        return
    answer = session.generate(query, 3)
    assert len(answer) == 3
    scores, greedy = session.score_greedy(query, answer)
    assert greedy
    assert scores.isfinite().all()
    assert (scores <= 0).all()
    close(scores, stepwise(model.prefill(context, prefix), query, answer))
    assert session.score(query, []).shape == (0,)


@pytest.mark.parametrize("prefix", [[], [0], [5, 6]])
def test_ids_may_be_arrays(model: LongContextModel, prefix: list[int]) -> None:
    """Their truth is not that of a list: an array of one 0 is false, longer ones have none. 48 ids: four chunks."""
    context, target = [*CONTEXT, 1, 2, 3], TARGET[:3]
    wanted = model.prefill(context, prefix).score(QUERY, target)
    arrays = [np.array(ids, dtype=np.int64) for ids in (context, prefix, QUERY.ids, target)]
    close(model.prefill(arrays[0], arrays[1]).score(Query(arrays[2], QUERY.question), arrays[3]), wanted)


def test_deterministic(name: str, model: LongContextModel) -> None:
    again = load(CASES[name])
    one, other = (m.prefill(CONTEXT, BOS).score(QUERY, TARGET) for m in (model, again))
    assert torch.equal(one, other)
