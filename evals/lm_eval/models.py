"""A model of lm-eval per method of the registry, made when it is first asked for.

lm-eval names a class by module and attribute (`evals.lm_eval.models:cepe`), so the attributes of this module are the
methods: built-in ones and those of installed packages.
"""

from __future__ import annotations

from functools import cache

from evals import registry
from evals.lm_eval.model import AnyPreset


@cache
def for_method(name: str) -> type[AnyPreset]:
    """The class that accepts presets of the method `name` only."""
    return type(f"AnyPresetOf_{name}", (AnyPreset,), {"method": name, "__doc__": f"Presets of the method {name}."})


def __getattr__(name: str) -> type[AnyPreset]:
    if name not in registry.methods():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return for_method(name)
