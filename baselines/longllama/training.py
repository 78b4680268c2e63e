"""LongLLaMA as a trained method: the whole base, fine-tuned with crossbatch (sections 3.2 and 4, appendix A.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self, cast

import torch
from pydantic import Field
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from baselines.longllama.crossbatch import crossbatch, entry_rotation, own_past, read_entries
from baselines.longllama.initial import over_base
from baselines.longllama.modeling import LongLlamaForCausalLM
from sharedllm.trained_adapter import BaseIdentity
from sharedllm.training.batches import Batch, whole_text
from sharedllm.training.loss import next_token_loss
from sharedllm.training.methods.base import AdaptedMethod, Options


class LongLLaMAOptions(Options):
    """window: tokens that all layers read together, which also is what one entry of crossbatch has. mem_layers: see
    `over_base`. negatives: see `crossbatch`."""

    window: Annotated[int, Field(ge=2, le=2**20)] = 2048
    mem_layers: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=1)] | None = None
    negatives: Annotated[int, Field(ge=0, le=2**20)] = 0


class TrainedLongLLaMA(AdaptedMethod):
    """Next-token prediction of whole documents, cut into windows of which memory layers see several.

    Every token of the text is a target in language modelling, as in the paper; in batches of questions the answers are.
    """

    name = "longllama"
    presets = ("baselines.longllama", "training_presets")
    preset = "longllama"
    options_model: ClassVar[type[Options]] = LongLLaMAOptions
    fixed = ("mem_layers",)  # the window is no weight's: a later stage may read longer ones
    text = (
        "LongLLaMA (Tworkowski et al., 2023, arXiv:2307.03170): a base that was fine-tuned so that three of its layers "
        "attend to a memory of everything before its window."
    )

    model: LongLlamaForCausalLM
    options: LongLLaMAOptions

    def __init__(self, model: LongLlamaForCausalLM, options: Options, base: BaseIdentity, init: Path | None) -> None:
        super().__init__(model, options, base, init)
        self._layer: Callable[..., torch.Tensor] = read_entries
        self._recompute = False

    @classmethod
    def build(cls, base: PreTrainedModel, options: Mapping[str, object], init: Path | None) -> Self:
        chosen = cast(LongLLaMAOptions, cls.chosen(options, base, init))
        identity = BaseIdentity.of(base)
        return cls(over_base(base, chosen.window, chosen.mem_layers), chosen, identity, init)

    def groups(self) -> Mapping[str, Callable[[str], bool]]:
        memory = tuple(f"model.layers.{i}." for i in self.model.config.mem_layers)
        return {
            "all": lambda name: True,
            "attention": lambda name: ".self_attn." in name,
            "memory_layers": lambda name: name.startswith(memory),
        }

    def hidden(self, batch: Batch) -> torch.Tensor:
        return self._states(whole_text(batch))[:, -batch.input_ids.shape[1] :]

    def loss(self, batch: Batch, compiled: bool) -> torch.Tensor:
        if batch.query_length is not None:
            return super().loss(batch, compiled)
        ids = whole_text(batch)
        return next_token_loss(self._states(ids), self.head.weight, ids, compiled=compiled)

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        """Final states (documents, tokens, hidden); of documents among each other in training, alone otherwise."""
        model, documents, entries = self.model, len(ids), -(-ids.shape[1] // self.model.window)
        hidden = model.decoder.embed_tokens(ids)
        rotation, training = entry_rotation(model, hidden), model.training
        memory = crossbatch(documents, entries, self.options.negatives) if training else own_past(documents, entries)
        for index, layer in enumerate(model.decoder.layers):
            runs = memory if index in model.config.mem_layers else None
            if self._recompute and training:
                hidden = checkpoint(self._layer, model, layer, hidden, rotation, runs, use_reentrant=False)
            else:
                hidden = self._layer(model, layer, hidden, rotation, runs)
        return model.decoder.norm(hidden)

    def checkpoint_gradients(self) -> None:
        self._recompute = True

    def compile(self) -> None:
        self._layer = torch.compile(read_entries)
