"""Trained methods by name. Other packages add theirs through the entry-point group `sharedllm.trained_methods`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from sharedllm.errors import UserError, nearest

if TYPE_CHECKING:  # the names alone must not wait for torch
    from sharedllm.training.methods.base import TrainedMethod

DEFAULT = "sharedllm"
BUILT_IN = {
    "sharedllm": "sharedllm.training.methods.sharedllm:SharedLLM",
    "cepe": "baselines.cepe.training:TrainedCEPE",
    "longllama": "baselines.longllama.training:TrainedLongLLaMA",
    "window": "baselines.window.training:Window",
    "beacon": "baselines.activation_beacon.training:Beacon",
}
"""Targets `module:class`, resolved when a method is used. A built-in name cannot be taken over."""


@cache
def methods() -> Mapping[str, str]:
    """Names and targets of the built-in methods and those of installed packages."""
    return {**{e.name: e.value for e in entry_points(group="sharedllm.trained_methods")}, **BUILT_IN}


def method(name: str) -> type[TrainedMethod]:
    """The class of a method. Raises UserError for an unknown name and for a package that cannot be imported."""
    known = methods()
    if name not in known:
        raise UserError(f"There is no trained method '{name}': {nearest(name, known)}")
    module, _, attribute = known[name].partition(":")
    try:
        found: type[TrainedMethod] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The trained method '{name}' is declared as {known[name]}, which cannot be imported ({error}): "
            "install its package again."
        ) from error
    return found
