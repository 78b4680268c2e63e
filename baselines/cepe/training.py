"""CEPE as a trained method: the base is frozen, cross-attention and encoder learn (section 3 of the paper).

Two stages in one run: in the first `same_text` of the steps the encoder reads the running text itself, which teaches
the cross-attention to read the encoder at all (4,000 of the paper's 24,000 steps); then the context before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from baselines.cepe.initial import over_base
from baselines.cepe.modeling import CEPEForCausalLM
from sharedllm.errors import UserError
from sharedllm.trained_adapter import BaseIdentity
from sharedllm.training.batches import NO_CONTEXT, Batch
from sharedllm.training.methods.base import AdaptedMethod, Options

ENCODE_BLOCK = 512
"""Chunks encoded at once: more than where 7B models read, since with small bases the host that issues the work is the
bottleneck."""


class CEPEOptions(Options):
    """encoder_layers: of the base, copied for the encoder. encoder_chunk: tokens that the encoder reads at a time.
    start: of the cross-attention's output, the self-attention's (the paper's) or zero (an option of its code).
    same_text: share of the steps, the first ones, in which the encoder reads the running text."""

    encoder_layers: Annotated[int, Field(ge=1, le=1000)] = 12
    encoder_chunk: Annotated[int, Field(ge=1, le=2**20)] = 256
    start: Literal["copy", "zero"] = "copy"
    same_text: Annotated[float, Field(ge=0, le=1)] = 1 / 6


class TrainedCEPE(AdaptedMethod):
    """Next-token prediction of running text that attends to its encoded context in every layer."""

    name = "cepe"
    presets = ("baselines.cepe", "training_presets")
    preset = "cepe"
    options_model: ClassVar[type[Options]] = CEPEOptions
    fixed = ("encoder_layers", "start")  # without the encoder or the cross-attention an adapter has the base's copies
    text = (
        "CEPE (Yen, Gao and Chen, 2024, arXiv:2402.16617): a bidirectional encoder reads the context in parallel "
        "chunks, and the frozen base attends to it by cross-attention in every layer."
    )

    model: CEPEForCausalLM
    options: CEPEOptions

    @classmethod
    def build(cls, base: PreTrainedModel, options: Mapping[str, object], init: Path | None) -> Self:
        chosen = cast(CEPEOptions, cls.chosen(options, base, init))
        identity, positions = BaseIdentity.of(base), base.config.max_position_embeddings
        if chosen.encoder_chunk > positions:
            raise UserError(f"The encoder has {positions} positions, not {chosen.encoder_chunk}: lower encoder_chunk.")
        model = over_base(base, chosen.encoder_layers, zero_output=chosen.start == "zero")
        return cls(model, chosen, identity, init)

    def groups(self) -> Mapping[str, Callable[[str], bool]]:
        return {"cross_attn": lambda name: ".cross_attn." in name, "encoder": lambda name: name.startswith("encoder.")}

    def check_window(self, what: str, chunks: int, running: int) -> None:
        positions = self.model.config.max_position_embeddings
        if running > positions:
            raise UserError(f"{what}: {running} tokens do not fit the decoder's {positions} positions: use fewer.")

    def hidden(self, batch: Batch) -> torch.Tensor:
        context = None
        if batch.context_ids is not None:
            context = self.model.encode_text(batch.context_ids.flatten(1), self.options.encoder_chunk, ENCODE_BLOCK)
        dropped = batch.kind == NO_CONTEXT
        decoder = self.model.model(input_ids=batch.input_ids, context=None if dropped else context, use_cache=False)
        hidden: torch.Tensor = decoder.last_hidden_state
        if dropped and context is not None and context.states is not None:  # a loss of nothing trained has no gradient
            hidden = hidden + 0 * context.states.sum()
        return hidden

    def loss(self, batch: Batch, compiled: bool) -> torch.Tensor:
        return super().loss(self._staged(batch), compiled)

    def tokens(self, batch: Batch) -> int:
        return self._staged(batch).tokens

    def _staged(self, batch: Batch) -> Batch:
        """The batch; in the first stage, where it is language modelling, with its running text as context."""
        if batch.progress >= self.options.same_text or batch.query_length is not None:
            return batch
        return replace(batch, context_ids=batch.input_ids[:, None], num_chunks=None, kind="lm")

    def layers(self) -> list[nn.Module]:
        return [*self.model.model.layers, *self.model.encoder.layers]
