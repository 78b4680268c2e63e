"""Families of decoder layers beyond Llama's: each method over each of them, on tiny random models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_cases import BOS, CONTEXT, QUERY, SHAPE, TARGET, close, stepwise
from shapes import BASES, CHUNK, VOCABULARY, base_model
from torch import nn
from transformers import DynamicCache

from evals import registry
from evals.methods import flops
from evals.methods.base import LongContextModel, Query, Runtime
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.prefill import read
from evals.methods.decoding.static_decoder import supports_static_decoding
from evals.methods.presets import Preset, Weights
from sharedllm import SharedLLMForCausalLM
from sharedllm.nn.base_config import head_dim, mlp_width
from sharedllm.nn.recipes import RECIPES
from sharedllm.nn.rotation import frequencies

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "phi3": {"sliding_window": None, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "smollm3": {"no_rope_layers": [1, 0], "use_sliding_window": False},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "olmo2": {},
    "gemma3_text": {
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "sliding_window": 20,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {"block": 7}),
    "streaming": ("streaming_llm", {"sinks": 2, "recent": 10, "chunk": 16}),
    "yarn": ("yarn", {"rope": "yarn", "factor": 4}),
    "sharedllm": ("sharedllm", {"chunk_size": 15, "ratios": [4, 2, 1], "lower_layers": 2, "policy": "last_token"}),
}


def load(family: str, method: str, **shape: Any) -> LongContextModel:
    kind, settings = METHODS[method]
    fields = {**SHAPE, "model_type": family, "pad_token_id": 0, **FAMILIES.get(family, {}), **shape}
    preset = Preset(
        name="tiny", method=kind, description="", weights=Weights(source="nowhere"), settings=settings, shape=fields
    )
    model = registry.method(kind).load(preset, Runtime(random_weights=True))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.model.parameters():  # type: ignore[attr-defined]
        if parameter.ndim == 1:  # norms that are all alike would hide which one is taken
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return model


def test_every_recipe_has_a_tiny_model_here() -> None:
    assert set(RECIPES) == set(BASES)
    assert set(RECIPES) - set(FAMILIES) == {"llama", "mistral", "qwen2", "qwen3"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_core_of_the_acceptance_matrix(family: str, method: str) -> None:
    """Cached equals uncached, reuse equals fresh, bytes are as cost says, and the context matters."""
    model = load(family, method)
    session = model.prefill(CONTEXT, BOS)
    scores = session.score(QUERY, TARGET)
    close(scores, stepwise(model.prefill(CONTEXT, BOS), QUERY, TARGET))
    answer = session.generate(QUERY, 6)
    assert session.score_greedy(QUERY, answer)[1]
    close(session.score(QUERY, TARGET), scores)
    changed = model.prefill([token + 1 for token in CONTEXT], BOS).score(QUERY, TARGET)
    assert (changed - scores).abs().max() > 1e-2
    for length in (13, 45):
        session = model.prefill(CONTEXT[:length])
        session.generate(QUERY, 2)
        assert session.state_bytes == model.cost(length, 0).state_bytes


@pytest.mark.parametrize("sizes", [[9], [5, 1, 7, 2]])
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_are_read_as_the_stock_forward_reads_them(family: str, sizes: list[int]) -> None:
    changes = {"layer_types": ["full_attention"] * 3} if family == "gemma3_text" else {}
    model = base_model(family, **changes).eval()
    ids = torch.randint(VOCABULARY, (1, sum(sizes)))
    cache, at, states = BufferCache(3, 4), 0, []
    with torch.no_grad():
        for size in sizes:
            states.append(read(model, ids[:, at : at + size], at, cache))
            at += size
        expected = model.base_model(input_ids=ids).last_hidden_state[0]
    torch.testing.assert_close(torch.cat(states), expected, atol=1e-4, rtol=1e-4)


ONE_LAYER: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    **{family: (family, {}) for family in FAMILIES if family not in ("smollm3", "gemma3_text")},
    "smollm3, rotated": ("smollm3", {"no_rope_layers": [1]}),
    "smollm3, without positions": ("smollm3", {"no_rope_layers": [0]}),
    "gemma3, full": ("gemma3_text", {"layer_types": ["full_attention"]}),
    "gemma3, wide window": ("gemma3_text", {"layer_types": ["sliding_attention"], "sliding_window": 40}),
}


@pytest.mark.parametrize("case", ONE_LAYER)
def test_streaming_over_one_layer_is_attention_to_sinks_and_recent_tokens(case: str) -> None:
    """With one layer, keys and values know nothing of other tokens: what was evicted might as well not have been."""
    family, changes = ONE_LAYER[case]
    streaming, full = (load(family, method, num_hidden_layers=1, **changes) for method in ("streaming", "full"))
    length = 12 + 2 * 16  # right after an eviction
    held = [*CONTEXT[:2], *CONTEXT[length - 10 : length]]
    got = streaming.prefill(CONTEXT[:length]).score(Query(QUERY.ids), TARGET[:6])
    close(got, full.prefill(held).score(Query(QUERY.ids), TARGET[:6]))


@pytest.mark.parametrize("kind", BASES)
def test_the_lower_model_reads_a_node_as_the_base_reads_a_text(kind: str) -> None:
    """Values of a layer depend on all that the layers below do; keys, where the base has one rotation for all."""
    base = base_model(kind).eval()
    model = SharedLLMForCausalLM.from_base(
        base, chunk_size=CHUNK, ratios=[1], lower_layers=3, policy="right", key_positions="node"
    )
    ids = torch.randint(1, VOCABULARY, (1, CHUNK))
    with torch.no_grad():
        context = model.compress(ids[None])
        halves = [DynamicCache(), DynamicCache()]
        for half, cache in zip(ids.chunk(2, 1), halves, strict=True):
            base(half, past_key_values=cache, use_cache=True)
    for j in range(3):
        values = torch.cat([cache.layers[j].values for cache in halves], 2)
        torch.testing.assert_close(context.values[j], values, atol=1e-4, rtol=1e-4)
        if kind not in ("smollm3", "gemma3_text"):
            keys = torch.cat([cache.layers[j].keys for cache in halves], 2)
            torch.testing.assert_close(context.keys[j], keys, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", BASES)
def test_the_arithmetic_of_a_layer_is_that_of_its_parameters(kind: str) -> None:
    """Of a mixture the experts that a token visits; `decoder_flops` counts parameters, `mlp_width` reads the config."""
    model, fields = base_model(kind), base_model(kind).config
    q, kv = fields.num_attention_heads * head_dim(fields), fields.num_key_value_heads * head_dim(fields)
    layer = 2.0 * fields.hidden_size * (2 * q + 2 * kv + 3 * mlp_width(fields))
    assert flops.decoder_flops(model) == pytest.approx(fields.num_hidden_layers * layer)


def test_a_mixture_of_experts_takes_forwards() -> None:
    assert not supports_static_decoding(base_model("qwen3_moe"))
    assert all(supports_static_decoding(base_model(kind)) for kind in BASES if kind != "qwen3_moe")


def test_layers_without_positions_have_no_frequencies() -> None:
    found = frequencies(base_model("smollm3").model)
    assert found[1].abs().max() == 0 < found[0].abs().min()
    gemma = frequencies(base_model("gemma3_text").model)
    assert torch.equal(gemma[0], gemma[2])
    assert gemma[1, -1] < gemma[0, -1]


def test_yarn_leaves_the_table_of_sliding_layers() -> None:
    plain, stretched = (load("gemma3_text", method).model.model for method in ("full", "yarn"))  # type: ignore[attr-defined]
    assert torch.equal(frequencies(plain)[0], frequencies(stretched)[0])
    assert not torch.equal(frequencies(plain)[1], frequencies(stretched)[1])
