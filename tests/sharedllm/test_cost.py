"""FLOPs by formula against torch's counter, bytes against the tensors that are there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM, cost
from sharedllm.tree import entries_per_chunk

CHUNKS, RUNNING, QUESTION = 3, 21, 8


def model_of(**method: Any) -> SharedLLMForCausalLM:
    base = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    usual = {"chunk_size": 64, "ratios": [8, 4, 2], "lower_layers": 3}
    return SharedLLMForCausalLM.from_base(AutoModelForCausalLM.from_config(base), **{**usual, **method}).eval()


def counted(call: Any) -> int:
    """Matrix products of a call; the plain attention kernel computes all pairs, above the diagonal too."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("policy", ["right", "last_token", "maxsim"])
@pytest.mark.parametrize(
    "method",
    [
        {},
        {"lower_layers": 1},
        {"ratios": [16, 8, 4, 1], "leaf_overlap": 3},
        {"ratios": [16, 8, 4, 1], "leaf_overlap": 3, "fine_chunks": 2},
        {"ratios": [8, 4, 1], "fine_chunks": 1},
        {"ratios": [4]},
        {"nodes": "all"},
        {"nodes": "all", "lower_layers": 1},
        {"nodes": "all", "ratios": [16, 8, 4, 1], "leaf_overlap": 3, "fine_chunks": 2},
        {"injection_start": 1, "lower_layers": 3},
        {"injection": "top", "lower_layers": 2, "chunk_size": 32},
        {"ratios": [8, 4, 1], "fine_recent": 2},
        {"attention": "joint", "rank": 5, "lower_layers": 4},
        {"attention": "joint", "ratios": [16, 8, 4, 1], "leaf_overlap": 3, "fine_chunks": 2, "injection_start": 1},
    ],
)
def test_flops_of_a_request(policy: str, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(policy=policy, **method)
    context = torch.randint(50, (1, CHUNKS, model.config.chunk_size))
    text = torch.randint(50, (1, RUNNING))
    question = None if policy == "right" else QUESTION
    made = counted(lambda: model(text, context, query_length=question, logits_to_keep=1, use_cache=True))
    causal = cost.arithmetic(model.config, CHUNKS, RUNNING, question or 0)
    monkeypatch.setattr(cost, "_causal", lambda tokens: tokens * tokens)  # as the counted kernel does
    full = cost.arithmetic(model.config, CHUNKS, RUNNING, question or 0)
    assert full.prefill == made
    assert causal.prefill < full.prefill
    assert (causal.search > 0) == (policy != "right")

    with torch.no_grad():
        out = model(text, context, query_length=question, use_cache=True)
    step = counted(lambda: model(text[:, :1], context=out.context, past_key_values=out.past_key_values))
    assert full.decode == step


@pytest.mark.parametrize("policy", ["last_token", "maxsim"])
@pytest.mark.parametrize("method", [{}, {"ratios": [16, 8, 4, 1], "leaf_overlap": 3, "injection_start": 1}])
def test_a_further_question_about_whole_trees(policy: str, method: dict[str, Any], monkeypatch: Any) -> None:
    """It costs the search and the upper model, and the trees take what the formula says."""
    model = model_of(policy=policy, nodes="all", **method)
    context, text = torch.randint(50, (1, CHUNKS, 64)), torch.randint(50, (1, RUNNING))
    with torch.no_grad():
        trees = model.read_trees(context)
    asked = {"trees": trees, "query_length": QUESTION, "logits_to_keep": 1, "use_cache": True}
    made = counted(lambda: model(text, context, **asked))
    monkeypatch.setattr(cost, "_causal", lambda tokens: tokens * tokens)
    flop = cost.arithmetic(model.config, CHUNKS, RUNNING, QUESTION, itemsize=4)
    assert flop.search + flop.upper == made
    assert flop.tree_bytes == trees.nbytes


def test_without_context_it_is_the_bases_cost() -> None:
    config = model_of().config
    nothing = cost.arithmetic(config, 0, RUNNING, QUESTION)
    assert nothing.lower == nothing.search == 0
    assert nothing.state_bytes == 2 * 2 * 2 * 8 * 4 * RUNNING  # keys and values, 2 heads of 8, 2 bytes, 4 layers


@pytest.mark.parametrize("method", [{}, {"attention": "joint"}, {"attention": "joint", "fine_recent": 1}])
def test_bytes_are_those_of_the_tensors(method: dict[str, Any]) -> None:
    model = model_of(policy="right", **method)
    with torch.no_grad():
        out = model(torch.randint(50, (1, RUNNING)), torch.randint(50, (1, CHUNKS, 64)), use_cache=True)
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers)
    assert cost.arithmetic(model.config, CHUNKS, RUNNING, itemsize=4).state_bytes == cache + out.context.nbytes


def test_the_search_is_within_the_papers_overhead() -> None:
    """LLaMA-2-7B, M = 4, 128K tokens: the paper reports about 15 % of time for the search."""
    base = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
    for policy, most in (("last_token", 0.02), ("maxsim", 0.10)):
        config = SharedLLMConfig(base_config=base, policy=policy)
        flop = cost.arithmetic(config, 126, 2048, 32)
        assert 0 < flop.search / (flop.lower + flop.upper) < most, policy
    assert entries_per_chunk(1024, [16, 8, 4], "equidistant") == 128
