"""A tiny random model under a press of kvpress, which must be installed, and the requests of its tests."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

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


def load_dense(shape: dict[str, Any] | None = None) -> FullAttention:
    weights, whole = Weights(source="nowhere"), SHAPE | (shape or {})
    preset = Preset(name="dense", method="full", description="", weights=weights, shape=whole)
    return FullAttention.load(preset, Runtime(random_weights=True))


def by_hand(method: KVPress, model: PreTrainedModel | None = None) -> torch.Tensor:
    """Log-probabilities of the target by kvpress's own context manager and the stock model, token by token.

    model: in place of the method's, with its weights."""
    model = model or method.model
    config, press, cache = model.config.get_text_config(), method.recipe.press(), DynamicCache()
    if method.recipe.weights:
        config._attn_implementation = "eager"
    torch.manual_seed(0)
    with torch.no_grad():
        with press(model):
            model.model(
                input_ids=torch.tensor([CONTEXT]), past_key_values=cache, cache_position=torch.arange(len(CONTEXT))
            )
        config._attn_implementation = "sdpa"
        position = cache.get_seq_length() if "keyrerotation" in method.recipe.settings.press else len(CONTEXT)
        rows = []
        for at, token in enumerate([*QUERY.ids, *TARGET]):
            ids, positions = torch.tensor([[token]]), torch.tensor([[position + at]])
            rows.append(model(input_ids=ids, past_key_values=cache, position_ids=positions).logits[0, 0])
    for layer in getattr(model.model, "language_model", model.model).layers:
        layer.self_attn.masked_key_indices = None
    wanted = torch.stack(rows)[len(QUERY.ids) - 1 : -1].log_softmax(-1)
    return wanted[torch.arange(len(TARGET)), TARGET]
