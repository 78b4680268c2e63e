"""Rotary embeddings stretched beyond the length a base was trained for: YaRN, linear interpolation, NTK-aware.

With head dimension d, base theta, frequencies f_i = theta^(-2i/d), trained length L and factor s:
linear: f_i / s (Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation").
ntk: theta * s^(d/(d-2)), so that the lowest frequency is divided by s and the highest stays.
yarn: f_i where a dimension turns more than 32 times within L, f_i / s where it turns less than once, a ramp in
between, and cos and sin times 0.1 ln s + 1 (Peng et al. 2023, "YaRN", sections 3.2 to 3.4).

All are exact on the stock model: only its rotary module is replaced. `dynamic` chooses s by the length of a
request, once per read, so cached keys and new queries always share one s. (Changing s under cached keys, as
stock dynamic NTK does, makes an answer depend on how its prompt was cut.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedConfig, PreTrainedModel

from baselines.dense import DenseSession, DenseSettings, FullAttention, check_base
from evals.errors import UserError
from evals.methods.base import Runtime, Session, common_fields
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.decoding.static_decoder import decode_mode
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from sharedllm.nn.base_config import head_dim

Kind = Literal["released", "yarn", "linear", "ntk"]


class RopeSettings(DenseSettings):
    """rope: how to stretch; `released` takes what the checkpoint's own config says. factor: s, for all lengths.
    dynamic: s by length instead."""

    rope: Kind = "yarn"
    factor: float | None = Field(None, ge=1)
    dynamic: bool = False

    @model_validator(mode="after")
    def _one_factor(self) -> Self:
        if self.rope == "released" and (self.factor or self.dynamic):
            raise ValueError("rope released takes its factor from the checkpoint: leave factor and dynamic out")
        if self.rope != "released" and (self.factor is None) != self.dynamic:
            raise ValueError(f"rope {self.rope} needs either a factor or dynamic=true")
        return self


def rope_parameters(config: PreTrainedConfig, kind: Kind, factor: float) -> dict[str, Any]:
    """What `config.rope_parameters` of an unstretched base becomes; factor 1 leaves it as it is."""
    theta = config.rope_parameters["rope_theta"]
    if factor == 1:
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "ntk":
        d = head_dim(config)
        return {"rope_type": "default", "rope_theta": theta * factor ** (d / (d - 2))}
    stretched = {"rope_type": kind, "rope_theta": theta, "factor": float(factor)}
    return stretched | ({"original_max_position_embeddings": config.max_position_embeddings} if kind == "yarn" else {})


def stretched_rotary(model: PreTrainedModel, kind: Kind, factor: float) -> torch.nn.Module:
    """A rotary module for `model`, whose own config is that of the unstretched base."""
    config = copy.deepcopy(model.config)
    config.rope_parameters = rope_parameters(config, kind, factor)
    rotary = type(model.base_model.get_submodule("rotary_emb"))
    return rotary(config).to(model.device)


def factor_for(length: int, window: int) -> int:
    """The dynamic s of a request: length / window, rounded up, so that alike requests share one read."""
    return max(1, -(-length // window))


class DynamicSession(DeferredSession[int]):
    """A context that is read when the length of a request is known, and again when that asks for another s, the plan.

    Length: context, query and scored targets. Generated tokens do not count: how many will come is not known,
    and a nominal length (16K) then has one s (2 of an 8K base) in every task.
    """

    def __init__(self, method: ScaledRope, ids: Sequence[int]) -> None:
        self._method = method
        self._ids = list(ids)

    def trace(self) -> dict[str, Any]:
        return {"factor": self.plan or 0}

    def _plan(self, query: int, generated: int, scored: int) -> int:
        return factor_for(len(self._ids) + query + scored, self._method.model.config.max_position_embeddings)

    def _read(self, plan: int) -> Session:
        return DenseSession(self._method.model, self._ids, self._method.settings.block)

    def _ready(self, plan: int) -> Session:
        self._method.model.base_model.rotary_emb = self._method.rotary(plan)  # sessions of other lengths share it
        return super()._ready(plan)


@dataclass(kw_only=True)
class ScaledRope(FullAttention):
    """Full attention with stretched positions: a released YaRN checkpoint, or any base without training."""

    settings_model: ClassVar[type[DenseSettings]] = RopeSettings

    settings: RopeSettings

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = RopeSettings.of(preset)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        window = check_base(model.config)
        rope = model.config.rope_parameters
        if settings.rope != "released" and rope["rope_type"] != "default":
            raise UserError(
                f"The base's positions are stretched already (rope type '{rope['rope_type']}'): "
                "use rope: released, or a base without scaling."
            )
        if settings.factor:
            window = int(window * settings.factor)
            model.base_model.rotary_emb = stretched_rotary(model, settings.rope, settings.factor)
        factor = "by length" if settings.dynamic else settings.factor or rope.get("factor", 1)
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness={
                "window": None if settings.dynamic else window,
                "rope": rope["rope_type"] if settings.rope == "released" else settings.rope,
                "factor": factor,
            },
            trained=settings.rope == "released",
            decode=decode_mode(model),
            longest=None if settings.dynamic else window,
        )
        return cls(**fields, model=model, settings=settings)

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        if self.settings.dynamic:
            return DynamicSession(self, [*prefix_ids, *context_ids])
        return super().prefill(context_ids, prefix_ids)

    def rotary(self, factor: float) -> torch.nn.Module:
        """The rotary module of a factor; a few hundred numbers, so it is made anew each time."""
        return stretched_rotary(self.model, self.settings.rope, factor)
