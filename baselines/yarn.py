"""Rotary embeddings stretched beyond the length a base was trained for: YaRN, linear interpolation, NTK-aware.

With d rotated dimensions per head, base theta, frequencies f_i = theta^(-2i/d), trained length L and factor s:
linear: f_i / s (Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation").
ntk: theta * s^(d/(d-2)), so that the lowest frequency is divided by s and the highest stays.
yarn: f_i where a dimension rotates more than 32 times within L, f_i / s where it rotates less than once, a ramp in
between, and cos and sin times 0.1 ln s + 1 (Peng et al. 2023, "YaRN", sections 3.2 to 3.4).

All are exact on the stock model: only its rotary module is replaced, and of its parameters only those that a formula
names (a partial rotation stays partial). With s = 1 the model is left as it is. `dynamic` chooses s by the length of a
request, once per read, so cached keys and new queries always share one s. (Changing s under cached keys, as
stock dynamic NTK does, makes an answer depend on how its prompt was cut.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedConfig, PreTrainedModel

from baselines.dense import DenseSession, DenseSettings, FullAttention
from evals.errors import UnfitError, UserError
from evals.methods.base import Query, Runtime, Session, common_fields
from evals.methods.bases import check_reading, sliding_layers
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.decoding.static_decoder import decode_mode
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from sharedllm.nn.base_config import positions, rope_table, rotary_dim, text_config, with_rope_table
from sharedllm.nn.layers import stock_decoder

Kind = Literal["released", "yarn", "linear", "ntk"]


class RopeSettings(DenseSettings):
    """How positions are stretched, and how far."""

    rope: Kind = Field("yarn", description="released: as the checkpoint's own config says; else yarn, linear or ntk")
    factor: float | None = Field(None, ge=1, le=65536, description="by which positions are stretched at all lengths")
    dynamic: bool = Field(False, description="the factor follows the length of a request, as where none is given")

    @model_validator(mode="before")
    @classmethod
    def _by_length(cls, given: dict[str, Any]) -> dict[str, Any]:
        stretches = given.get("rope") != "released" and given.get("factor") is None
        return {"dynamic": True, **given} if stretches else given

    @model_validator(mode="after")
    def _one_factor(self) -> Self:
        if self.rope == "released" and (self.factor or self.dynamic):
            raise ValueError("rope released takes its factor from the checkpoint: leave factor and dynamic out")
        if self.rope != "released" and (self.factor is None) != self.dynamic:
            raise ValueError(f"rope {self.rope} needs either a factor or dynamic=true")
        return self


def rope_parameters(config: PreTrainedConfig, kind: Kind, factor: float) -> dict[str, Any]:
    """What the rope parameters of an unstretched base become. Fields that the formula does not name stay, and so does
    the table of layers with a sliding window where it is one of its own."""
    table = rope_table(config)
    if factor == 1:
        return with_rope_table(config, table)
    if kind == "ntk":
        d = rotary_dim(config)
        return with_rope_table(config, table | {"rope_theta": table["rope_theta"] * factor ** (d / (d - 2))})
    trained = {"original_max_position_embeddings": positions(config)} if kind == "yarn" else {}
    return with_rope_table(config, table | {"rope_type": kind, "factor": float(factor)} | trained)


def stretched_rotary(model: PreTrainedModel, kind: Kind, factor: float) -> torch.nn.Module:
    """A rotary module for `model`, whose config is of the unstretched base. Factor 1 gives one equal to its own."""
    own = stock_decoder(model).get_submodule("rotary_emb")
    config = copy.deepcopy(text_config(model.config))
    config.rope_parameters = rope_parameters(config, kind, factor)
    make = cast(Callable[[PreTrainedConfig], torch.nn.Module], type(own))
    return make(config).to(model.device)


def check_rope(model: PreTrainedModel, kind: Kind) -> dict[str, Any]:
    """The base's rope parameters. Raises UserError for a base that `kind` cannot stretch."""
    config = text_config(model.config)
    try:
        table = rope_table(config)
    except UserError as error:
        raise UnfitError(f"{error}, and YaRN, linear and NTK stretch exactly one: choose another base.") from error
    if kind == "released":
        return table
    if table["rope_type"] != "default":
        raise UnfitError(
            f"The base's positions are stretched already (rope type '{table['rope_type']}'): "
            "use rope: released, or a base without scaling."
        )
    if (
        positions(config) is None
        or not hasattr(stock_decoder(model), "rotary_emb")
        or (kind == "ntk" and rotary_dim(config) < 3)
    ):
        raise UnfitError(
            f"The rotary embedding of a base of type '{config.model_type}' cannot be stretched: choose another."
        )
    return table


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

    def _plan(self, query: Query, generated: int, scored: int) -> int:
        return factor_for(len(self._ids) + len(query.ids) + scored, self._method.trained)

    def _read(self, plan: int) -> Session:
        return DenseSession(self._method.model, self._ids, self._method.settings.block)

    def _ready(self, plan: int) -> Session:
        self._method.stretch(plan)  # sessions of other lengths share the model
        return super()._ready(plan)


@dataclass(kw_only=True)
class ScaledRope(FullAttention):
    """Full attention with stretched positions: a released YaRN checkpoint, or any base without training."""

    settings_model: ClassVar[type[DenseSettings]] = RopeSettings

    settings: RopeSettings
    trained: int
    """Tokens that the base was trained for."""

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = RopeSettings.of(preset)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        rope = check_rope(model, settings.rope)
        check_reading(model)
        trained = positions(model.config)
        window = trained and int(trained * (settings.factor or 1))
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
                **sliding_layers(model.config),
            },
            trained=settings.rope == "released",
            decode=decode_mode(model),
            longest=None if settings.dynamic else window,
        )
        method = cls(**fields, model=model, settings=settings, trained=trained or 0)
        if settings.factor:
            method.stretch(settings.factor)
        return method

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        if self.settings.dynamic:
            return DynamicSession(self, [*prefix_ids, *context_ids])
        return super().prefill(context_ids, prefix_ids)

    def stretch(self, factor: float) -> None:
        """Give the model the rotary module of a factor: a few hundred numbers, so it is made anew each time."""
        stock_decoder(self.model).rotary_emb = stretched_rotary(self.model, self.settings.rope, factor)
