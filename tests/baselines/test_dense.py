"""Dense methods against the stock model, their costs against what torch counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import TINY_SHAPE
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, GptOssConfig, LlamaConfig

from baselines.dense import FullAttention
from baselines.truncated import Truncated, context_room
from evals.errors import UserError
from evals.methods import flops, presets
from evals.methods.base import Query, Runtime, Stop
from evals.methods.bases import kernel_for
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.weights import load_base
from sharedllm.nn.base_config import positions

CONTEXT = [(7 * i + i // 5) % 256 for i in range(90)]
QUERY = Query([3, 1, 4, 1, 5])
TARGETS = [9, 2, 6, 5]


@pytest.fixture(scope="module")
def full(tiny_presets: Callable[..., Path]) -> FullAttention:
    return FullAttention.load(presets.load_preset(str(tiny_presets("full"))), Runtime())


def truncated(tiny_presets: Callable[..., Path], name: str, **fields: object) -> Truncated:
    preset = presets.load_preset(str(tiny_presets("truncated", name=name, settings=fields)))
    return Truncated.load(preset.model_copy(update={"max_context": None}), Runtime())


def stock_scores(model: FullAttention, ids: list[int], targets: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model.model(torch.tensor([[*ids, *targets]])).logits[0, :-1]
    return logits.log_softmax(-1)[-len(targets) :].gather(1, torch.tensor(targets)[:, None])[:, 0]


def stock_greedy(model: FullAttention, ids: list[int], new: int) -> list[int]:
    for _ in range(new):
        with torch.no_grad():
            ids = [*ids, int(model.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-new:]


@pytest.mark.parametrize("block", [None, 1, 16, 64])
def test_full_is_the_stock_model(full: FullAttention, block: int | None) -> None:
    full.settings = full.settings.model_copy(update={"block": block})
    session = full.prefill(CONTEXT, prefix_ids=[256])
    ids = [256, *CONTEXT, *QUERY.ids]
    assert torch.allclose(session.score(QUERY, TARGETS), stock_scores(full, ids, TARGETS), atol=1e-5)
    assert session.generate(QUERY, 6) == stock_greedy(full, ids, 6)
    full.settings = full.settings.model_copy(update={"block": None})


def test_calls_do_not_see_each_other_and_the_state_is_as_the_formula_says(full: FullAttention) -> None:
    session = full.prefill(CONTEXT)
    held = session.state_bytes
    first = session.generate(QUERY, 5)
    session.score(Query([8] * 1100), TARGETS)  # beyond the room that the cache starts with
    assert session.generate(QUERY, 5) == first
    assert session.state_bytes == held
    assert held == full.cost(len(CONTEXT), 0).state_bytes == len(CONTEXT) * 2 * 3 * 2 * 8 * 4


def test_sliding_layers_hold_all_tokens_and_the_record_says_so(
    full: FullAttention, tiny_presets: Callable[..., Path]
) -> None:
    """transformers holds the window less one in them (docs/methods.md)."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    shape = TINY_SHAPE | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 24, "layer_types": kinds}
    preset = presets.load_preset(str(tiny_presets("full", "sliding", shape=shape)))
    model = FullAttention.load(preset, Runtime(random_weights=True))
    token = 2 * 2 * 8 * 4  # keys and values of one layer
    held = model.prefill(CONTEXT).state_bytes
    assert held == model.cost(len(CONTEXT), 0).state_bytes == 3 * len(CONTEXT) * token
    cache = DynamicCache(config=model.model.config)
    model.model(torch.tensor([CONTEXT]), past_key_values=cache)
    stock = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert stock == (len(CONTEXT) + 2 * 23) * token
    assert model.fairness["sliding layers"] == "2, all tokens held"
    assert "sliding layers" not in full.fairness


def test_an_empty_query_continues_the_context_and_an_empty_context_the_query(full: FullAttention) -> None:
    scores = full.prefill(CONTEXT).score(Query(), TARGETS)
    assert torch.allclose(scores, stock_scores(full, CONTEXT, TARGETS), atol=1e-5)
    scores = full.prefill([], prefix_ids=[256]).score(QUERY, TARGETS)
    assert torch.allclose(scores, stock_scores(full, [256, *QUERY.ids], TARGETS), atol=1e-5)


def test_generation_stops_and_respects_the_minimum(full: FullAttention) -> None:
    session = full.prefill(CONTEXT)
    free = session.generate(QUERY, 4)
    assert session.generate(QUERY, 4, Stop(frozenset([free[0]]))) == []
    held_back = session.generate(QUERY, 4, Stop(frozenset([free[0]]), min_new_tokens=1))
    assert held_back
    assert held_back[0] != free[0]


def test_truncated_is_dense_where_all_fits(full: FullAttention, tiny_presets: Callable[..., Path]) -> None:
    session = truncated(tiny_presets, "all").prefill(CONTEXT, prefix_ids=[256])
    expected = full.prefill(CONTEXT, prefix_ids=[256])
    assert torch.equal(session.score(QUERY, TARGETS), expected.score(QUERY, TARGETS))
    assert session.trace() == {"kept_tokens": len(CONTEXT), "cut_tokens": 0}


@pytest.mark.parametrize("side", ["middle", "left", "right"])
def test_truncated_answers_as_if_it_had_got_the_kept_part(full, tiny_presets, side) -> None:
    model = truncated(tiny_presets, f"cut-{side}", side=side, window=64)
    session = model.prefill(CONTEXT, prefix_ids=[256])
    scores = session.score(QUERY, TARGETS)
    room = session.trace()["kept_tokens"]
    assert 64 - 1 - len(QUERY.ids) - len(TARGETS) - 4 <= room <= 64 - 1 - len(QUERY.ids) - len(TARGETS)
    half = room // 2
    kept = {
        "middle": CONTEXT[:half] + CONTEXT[len(CONTEXT) - half :],
        "left": CONTEXT[-room:],
        "right": CONTEXT[:room],
    }[side]
    assert torch.allclose(scores, stock_scores(full, [256, *kept, *QUERY.ids], TARGETS), atol=1e-5)
    assert session.state_bytes == (1 + room) * 2 * 3 * 2 * 8 * 4


def test_what_truncation_keeps_depends_on_the_query_alone(tiny_presets: Callable[..., Path]) -> None:
    model = truncated(tiny_presets, "order", window=64)
    session = model.prefill(CONTEXT)
    session.generate(Query([1] * 30), 4)
    again = session.score(QUERY, TARGETS)
    assert torch.equal(again, model.prefill(CONTEXT).score(QUERY, TARGETS))
    with pytest.raises(UserError, match="take 64 of the 64 tokens"):
        session.generate(Query([1] * 60), 4)


@given(window=st.integers(64, 9000), prefix=st.integers(0, 20), tail=st.integers(1, 9000))
@settings(max_examples=200)
def test_room_never_overflows_the_window(window: int, prefix: int, tail: int) -> None:
    if prefix + tail >= window:
        with pytest.raises(UserError):
            context_room(window, prefix, tail)
    else:
        room = context_room(window, prefix, tail)
        assert 1 <= room <= window - prefix - tail
        assert room == 1 or window - prefix - tail - room < 256


@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=12), back=st.integers(0, 8))
@settings(max_examples=50, deadline=None)
def test_the_cache_holds_what_was_put_in_whatever_the_pieces(cuts: list[int], back: int) -> None:
    cache = BufferCache(layers=1, capacity=4)
    stream = torch.arange(2 * sum(cuts) * 3, dtype=torch.float32).view(1, 2, sum(cuts), 3)
    for piece in stream.split(cuts, dim=2):
        keys, values = cache.update(piece, -piece, 0)
    assert torch.equal(keys, stream)
    assert torch.equal(values, -stream)
    left = max(sum(cuts) - back, 1)
    cache.truncate(left)
    assert cache.get_seq_length() == left
    assert cache.nbytes == 2 * 2 * left * 3 * 4
    keys, _ = cache.update(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3), 0)
    assert torch.equal(keys, torch.cat([stream[:, :, :left], torch.ones(1, 2, 1, 3)], dim=2))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_flops_are_those_that_torch_counts(kv_heads: int) -> None:
    """torch counts all pairs of a masked attention, so the formula is asked for all pairs too."""
    shape = {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "head_dim": 16,
    }
    preset = presets.load_preset("full-135m")
    model, _ = load_base(preset.weights, Runtime(random_weights=True, attn="eager"), shape)
    tokens = 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), logits_to_keep=1)
    formula = (
        tokens * flops.linear_flops(model.config)
        + flops.attention_flops(model.config, tokens * tokens)
        + flops.head_flops(model.config)
    )
    rotary = 2 * 8 * tokens  # some releases multiply frequencies and positions as matrices
    assert counter.get_total_flops() - formula in (0, rotary)


def test_causal_pairs_are_counted_in_pieces_as_in_one() -> None:
    assert flops.causal_pairs(10) == 55
    assert flops.causal_pairs(4) + flops.causal_pairs(6, past=4) == flops.causal_pairs(10)


def test_costs_grow_as_dense_attention_does(full: FullAttention) -> None:
    small, large = full.cost(1000, 24), full.cost(2000, 24)
    linear = flops.linear_flops(full.model.config)
    pairs = flops.causal_pairs(2024) - flops.causal_pairs(1024)
    assert large.prefill_flops - small.prefill_flops == 1000 * linear + flops.attention_flops(full.model.config, pairs)
    assert large.decode_flops - small.decode_flops == flops.attention_flops(full.model.config, 1000)
    assert small.weight_bytes == sum(p.numel() for p in full.model.parameters()) * 4
    embedding = 258 * 32 * 4  # untied: one row of it is read for a token
    assert small.decode_bytes == small.weight_bytes - embedding + small.state_bytes


def test_bases_with_rescaled_logits_are_refused() -> None:
    assert positions(LlamaConfig(max_position_embeddings=77)) == 77
    config = GptOssConfig()
    config.final_logit_softcapping = 30.0
    with pytest.raises(UserError, match="rescales its logits"):
        kernel_for(config, Runtime(attn="eager"))


def test_windows_are_named(full: FullAttention, tiny_presets: Callable[..., Path]) -> None:
    assert full.max_context == full.fairness["window"] == TINY_SHAPE["max_position_embeddings"]
    model = truncated(tiny_presets, "named", window=100)
    assert model.max_context is None
    assert model.fairness["window"] == 100
    assert model.fairness["side"] == "middle"
