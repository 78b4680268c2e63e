"""Random weights in the shape of a released checkpoint: made at once in their dtype, and of exactly that shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evals import registry
from evals.methods import presets
from evals.methods.base import LongContextModel, Query, Runtime

PARAMETERS = {  # name -> parameters, tensors; CEPE's as counted on the authors' class, LongLLaMA's are Llama's
    "cepe-135m": (134_515_008 + 26_559_360 + 70_793_280, 532),  # base, cross-attention, encoder: as training makes them
    "longllama-135m": (134_515_008, 272),
    "cepe-7b": (8_516_195_328, 669),
    "ceped-7b": (8_516_195_328, 669),
    "longllama-3b": (3_426_473_600, 237),
    "longllama-3b-v1.1": (3_426_473_600, 237),
    "longllama-code-7b": (6_738_546_688, 291),
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 300,
    "mem_layers": [1],
    "max_position_embeddings": 64,
    "num_cross_attn_layers": 3,
    "encoder_hidden_size": 32,
    "encoder_config": {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
}


def load(name: str, runtime: Runtime, **changes: Any) -> LongContextModel:
    preset = presets.load_preset(name)
    return registry.method(preset.method).load(preset.model_copy(update=changes), runtime)


@pytest.mark.parametrize("name", PARAMETERS)
def test_shape_is_the_released_one(name: str) -> None:
    model: Any = load(name, Runtime(device="meta", dtype="bfloat16", random_weights=True, offline=True))
    parameters = dict(model.model.named_parameters())
    zeros = getattr(model, "padding_bytes", 0) // 2
    assert (sum(p.numel() for p in parameters.values()) - zeros, len(parameters)) == PARAMETERS[name]
    assert bool(zeros) == name.startswith("longllama-3b"), "its heads of 100 are padded"
    assert model.cost(32_768, 64).weight_bytes == 2 * PARAMETERS[name][0]


class LargestFloat32(TorchDispatchMode):
    """Notes the number of elements of the largest float32 tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("name", ["cepe-7b", "longllama-3b"])
def test_no_float32_copy_is_made(name: str) -> None:
    settings = {"window": 64} if name == "cepe-7b" else {"last_context_length": 16}
    with LargestFloat32() as watch:
        model: Any = load(name, Runtime(dtype="bfloat16", random_weights=True), shape=TINY, settings=settings)
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}
    assert watch.numel < 32 * 32, "smaller than any weight matrix"
    assert model.prefill(list(range(90))).score(Query([4]), [7]).isfinite().all()
