"""A model as a shape without numbers: what its method says of its settings before a weight is there."""

from __future__ import annotations

from dataclasses import replace

from evals.errors import UnfitError, UserError
from evals.methods.base import LongContextModel, Runtime
from evals.methods.presets import Preset, Weights
from evals.run.identity import ModelChoice
from sharedllm.validation import validate


def on_meta(choice: ModelChoice, preset: Preset, runtime: Runtime) -> LongContextModel:
    """The model of a preset of the chosen method: nothing is allocated, read or fetched.

    Raises UserError where the preset has no shape or the method refuses it. Methods of other packages, which may need
    real weights, may raise anything.
    """
    if preset.shape is None or choice.method.remote:
        raise UserError("no shape, or not on this machine")
    shape_only = preset.model_copy(update={"weights": Weights(source="none")})  # no search for its tokenizer
    return choice.method.load(shape_only, replace(runtime, device="meta", random_weights=True, offline=True, gpus=1))


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
