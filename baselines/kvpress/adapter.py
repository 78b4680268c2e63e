"""KV-cache compression by the presses of kvpress: the base reads all of the context, then keeps some of its keys and
values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from transformers import PreTrainedModel

from baselines.kvpress.bases import check_base, is_mixed, pressed_layers
from baselines.kvpress.build import Recipe
from baselines.kvpress.cost import pressed_cost
from baselines.kvpress.reading import read_context
from baselines.kvpress.session import PressedSession
from baselines.kvpress.settings import KVPressSettings
from evals.methods.base import Cost, LongContextModel, Runtime, common_fields
from evals.methods.bases import sliding_layers
from evals.methods.decoding.static_decoder import decode_mode
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from sharedllm.nn.base_config import positions


@dataclass(kw_only=True)
class KVPress(LongContextModel):
    """A Llama, Mistral, Qwen or Gemma 3 base under a press that compresses a context once, before questions are
    known."""

    settings_model: ClassVar[type[KVPressSettings]] = KVPressSettings

    model: PreTrainedModel
    recipe: Recipe
    seed: int

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        recipe = Recipe(KVPressSettings.of(preset))  # what is missing is said before a base is loaded
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        check_base(model, recipe.settings.press)
        window, pressed = positions(model.config), len(pressed_layers(model.config))
        fairness = {
            "window": window,
            **recipe.arguments,
            "state": "masked, full size" if recipe.masks else "dropped",
            **({"layers pressed": f"{pressed} of {model.config.num_hidden_layers}"} if is_mixed(model.config) else {}),
            **sliding_layers(model.config),
        }
        decode = decode_mode(model)
        fields = common_fields(
            preset, runtime, model, tokenizer, fairness=fairness, trained=False, decode=decode, longest=window
        )
        return cls(**fields, model=model, recipe=recipe, seed=runtime.seed)

    @classmethod
    def files(cls, preset: Preset) -> Sequence[Path]:
        folder = KVPressSettings.of(preset).stats_folder
        return [Path(folder)] if folder else []

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> PressedSession:
        if not (len(context_ids) or len(prefix_ids)):
            return PressedSession(self.model, None)
        reading = read_context(self.model, self.tokenizer, self.recipe, prefix_ids, context_ids, self.seed)
        return PressedSession(self.model, reading)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        return pressed_cost(self.model, self.recipe, context_tokens, query_tokens)
