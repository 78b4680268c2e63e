"""SharedLLM as a trained method: language modelling and query-aware fine-tuning (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import PreTrainedModel

from sharedllm.adapter import save_adapter
from sharedllm.adapter_files import read_record
from sharedllm.errors import UserError
from sharedllm.model_card import model_card
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.settings import check_settings
from sharedllm.training.batches import Batch
from sharedllm.training.methods.base import TrainedMethod
from sharedllm.training.methods.groups import Groups, select

READERS = ("cross_attention", "joint_attention")
"""What reads the context, one of them in a model."""


class SharedLLM(TrainedMethod):
    """The method of the paper. Options are the fields of `MethodFields`."""

    name = "sharedllm"
    presets = ("sharedllm.training", "presets")
    preset = "small"
    modes: ClassVar[tuple[str, ...]] = ("lm", "sft")

    def __init__(self, model: SharedLLMForCausalLM) -> None:
        self.model: SharedLLMForCausalLM = model

    @classmethod
    def check(cls, options: Mapping[str, object]) -> None:
        check_settings(options)

    @classmethod
    def build(cls, base: PreTrainedModel, options: Mapping[str, object], init: Path | None) -> Self:
        settings: dict[str, Any] = dict(options)
        if init is None:
            return cls(SharedLLMForCausalLM.from_base(base, **settings))
        return cls(SharedLLMForCausalLM.from_adapter(init, base, **settings))

    def trainable(self, groups: Sequence[str]) -> Groups:
        return select_trainable(self.model, groups)

    @property
    def chunk_size(self) -> int:
        return self.model.config.chunk_size

    def hidden(self, batch: Batch) -> torch.Tensor:
        return self.model.decode(batch).hidden

    def save(self, folder: Path, base_name: str, shard_bytes: int) -> None:
        save_adapter(self.model, folder, base_name, shard_bytes=shard_bytes)

    def card(self, folder: Path, name: str, data: str, quality: Sequence[Mapping[str, object]]) -> str:
        return model_card(read_record(folder), name, data, quality)

    def compile(self) -> None:
        self.model.compile_layers()


def select_trainable(model: SharedLLMForCausalLM, groups: Sequence[str]) -> Groups:
    """Freeze everything but the named groups; returns the parameters that get `lr` and those that get `lr_base`.

    Groups: `cross_attention` or `joint_attention`; `top`, the upper model's layers above the injection (paper section
    3.3); `lower`, the lower model's own copy. Raises UserError for another name, or `lower` without config.own_lower.
    """
    if "lower" in groups and not model.config.own_lower:
        raise UserError("The lower model shares the base's layers: set own_lower to train a copy of them.")
    lower, layers = model.config.lower_layers, model.config.base_config.num_hidden_layers
    prefixes = {
        **{name: (f"{name}.",) for name in READERS},
        "top": tuple(f"base.model.layers.{i}." for i in range(lower, layers)),
        "lower": ("lower.",),
    }
    known = {group: partial(_begins, prefix) for group, prefix in prefixes.items()}
    return select(model, groups, known, of_base=("top", "lower"), among=f" with {lower} lower layers")


def _begins(prefixes: tuple[str, ...], name: str) -> bool:
    return name.startswith(prefixes)
