"""A model as a shape without numbers, on torch's meta device: what its method says before a weight is there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods import weights
from evals.methods.base import LongContextModel, Runtime
from evals.methods.presets import Preset, Weights
from evals.run.identity import ModelChoice

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def on_meta(choice: ModelChoice, preset: Preset, runtime: Runtime) -> LongContextModel:
    """The model of a preset of the chosen method, of the shape that the preset or a config on this machine tells: no
    weight is allocated, read or fetched.

    Raises UserError where nothing tells the shape or the method refuses it. Methods of other packages, which may need
    real weights, may raise anything.
    """
    if choice.method.remote:
        raise UserError("it is not on this machine")
    shape = preset.shape or config_here(preset, choice.runtime).to_dict()
    shape_only = preset.model_copy(update={"weights": Weights(source="none"), "shape": shape})  # without its tokenizer
    return choice.method.load(shape_only, replace(runtime, device="meta", random_weights=True, offline=True, gpus=1))


def config_here(preset: Preset, runtime: Runtime) -> PretrainedConfig:
    """The config of a folder or repository. Raises UserError where it is not on this machine."""
    try:
        folder = weights.resolve(preset.weights, replace(runtime, offline=True), need_weights=False)
        return weights.causal_config(folder)
    except UserError as error:
        raise UserError("no shape, or not on this machine") from error
