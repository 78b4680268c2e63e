"""A tiny random Llama under a press of kvpress, which must be installed, and the requests of its tests."""

from __future__ import annotations

from typing import Any

from baselines.dense import FullAttention
from baselines.kvpress.adapter import KVPress
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights

SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
}
PREFIX = [256, 40, 41]
CONTEXT = [(7 * i * i + 3 * i) % 250 for i in range(45)]
QUERY = Query([11, 12, 13, 14], question=(1, 3))
TARGET = [21, 5, 22, 199, 8, 23]


def load(press: str, shape: dict[str, Any] | None = None, **settings: Any) -> KVPress:
    preset = Preset(
        name="tiny",
        method="kvpress",
        description="",
        weights=Weights(source="nowhere"),
        settings={"press": press, **settings},
        shape=SHAPE | (shape or {}),
    )
    return KVPress.load(preset, Runtime(random_weights=True))


def load_dense() -> FullAttention:
    preset = Preset(name="dense", method="full", description="", weights=Weights(source="nowhere"), shape=SHAPE)
    return FullAttention.load(preset, Runtime(random_weights=True))
