"""The base, fine-tuned with low-rank updates and dense attention: what the text itself is worth without any method.

With `rope: yarn` its positions are stretched first (Peng et al., 2023, "YaRN"), and the window by the same factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedModel

from baselines.window.low_rank import add_updates, is_update
from baselines.yarn import check_rope, stretched_rotary
from sharedllm.errors import UserError
from sharedllm.nn.base_config import positions
from sharedllm.nn.layers import stock_decoder
from sharedllm.trained_adapter import BaseIdentity
from sharedllm.training.batches import Batch, whole_text
from sharedllm.training.methods.base import AdaptedMethod, Options


class WindowOptions(Options):
    """rank, alpha: the update is alpha / rank times up(down(x)). rope, factor: how positions are stretched. window:
    tokens that the model reads, the last ones of a longer text; by default the base's positions times the factor."""

    rank: Annotated[int, Field(ge=1, le=2**16)] = 32
    alpha: Annotated[float, Field(gt=0, le=2**16)] = 32.0
    rope: Literal["default", "yarn"] = "default"
    factor: Annotated[float, Field(ge=1, le=65536)] = 1.0
    window: Annotated[int, Field(ge=2, le=2**24)] | None = None

    @model_validator(mode="after")
    def _factor_of_yarn(self) -> Self:
        if (self.rope == "yarn") != (self.factor > 1):
            raise ValueError("rope yarn goes with a factor above 1, and a factor with rope yarn")
        return self


class Window(AdaptedMethod):
    """Language modelling of running text after as much of its context as the window holds."""

    name = "window"
    presets = ("baselines.window", "training_presets")
    preset = "window"
    options_model: ClassVar[type[Options]] = WindowOptions
    fixed = ("rank", "alpha")  # positions are no weight's: a later stage may stretch them and read longer windows
    text = "Low-rank updates (LoRA) of a base's attention, trained with dense attention in its window."

    @classmethod
    def build(cls, base: PreTrainedModel, options: Mapping[str, object], init: Path | None) -> Self:
        chosen = cast(WindowOptions, cls.chosen(options, base, init))
        identity = BaseIdentity.of(base)
        lay_out(base, chosen)
        return cls(base, chosen, identity, init)

    @property
    def window(self) -> int:
        """Tokens that the model reads."""
        return window_of(self.model, cast(WindowOptions, self.options))

    def check_window(self, what: str, chunks: int, running: int) -> None:
        tokens = chunks * self.chunk_size + running if what == "needles" else running
        if tokens > self.window:
            raise UserError(f"{what}: {tokens} tokens do not fit the window of {self.window}: use shorter ones.")

    def tokens(self, batch: Batch) -> int:
        rows, length = whole_text(batch).shape
        return rows * min(length, self.window)

    def groups(self) -> Mapping[str, Callable[[str], bool]]:
        return {"low_rank": is_update}

    def hidden(self, batch: Batch) -> torch.Tensor:
        ids = whole_text(batch)[:, -self.window :]
        hidden: torch.Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[:, -batch.input_ids.shape[1] :]


def window_of(model: PreTrainedModel, options: WindowOptions) -> int:
    """Tokens that a model with these options reads. Raises UserError for a base that does not say its own."""
    own = options.window or positions(model.config)
    if own is None:
        raise UserError("The base does not say what length it was made for: set window in the method's options.")
    return own if options.window else int(own * options.factor)


def lay_out(base: PreTrainedModel, options: WindowOptions) -> None:
    """Give a base stretched positions and updates, in place. Raises UserError for a base that does not fit."""
    if options.rope == "yarn":
        check_rope(base, "yarn")
        stock_decoder(base).rotary_emb = stretched_rotary(base, "yarn", options.factor)
    add_updates(base, options.rank, options.alpha / options.rank)
