"""A model as a shape without numbers: what its method says of its settings before a weight is there."""

from __future__ import annotations

from dataclasses import replace

from evals.errors import UnfitError, UserError
from evals.methods import weights
from evals.methods.base import LongContextModel, Runtime
from evals.methods.presets import Preset, Weights
from evals.records.json import Json
from evals.run.identity import ModelChoice
from sharedllm.validation import validate


def on_meta(choice: ModelChoice, preset: Preset, runtime: Runtime) -> LongContextModel:
    """The model of a preset of the chosen method, of the shape that the preset or a config on this machine tells: no
    weight is allocated, read or fetched.

    Raises UserError where nothing tells the shape or the method refuses it. Methods of other packages, which may need
    real weights, may raise anything.
    """
    if choice.method.remote:
        raise UserError("it is not on this machine")
    shape = preset.shape or _shape_here(preset, choice.runtime)
    shape_only = preset.model_copy(update={"weights": Weights(source="none"), "shape": shape})  # without its tokenizer
    return choice.method.load(shape_only, replace(runtime, device="meta", random_weights=True, offline=True, gpus=1))


def _shape_here(preset: Preset, runtime: Runtime) -> Json:
    """What the config of a folder or repository says. Raises UserError where it is not on this machine."""
    try:
        folder = weights.resolve(preset.weights, replace(runtime, offline=True), need_weights=False)
        return weights.causal_config(folder).to_dict()
    except UserError as error:
        raise UserError("no shape, or not on this machine") from error


def check_settings(choice: ModelChoice) -> None:
    """Raises UserError for settings that a load would refuse, as far as the preset says what the model is: its shape
    is that of its own weights, not of what `--checkpoint` names or an adapter makes of them.
    """
    preset, runtime = choice.preset, choice.runtime
    if choice.method.settings_model:
        validate(choice.method.settings_model, preset.settings, choice.name)
    if not runtime.random_weights and (runtime.checkpoint or preset.adapter):
        return
    try:
        on_meta(choice, preset, runtime)
    except UnfitError:
        raise
    except Exception:  # packages and files may be where the run will be: only settings are judged here
        return
