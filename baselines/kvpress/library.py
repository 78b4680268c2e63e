"""kvpress itself, imported without its effect on other models."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Protocol, cast

from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from evals.errors import UserError
from evals.packages import version

PACKAGE = "kvpress"
INSTALL = "pip install 'sharedllm[kvpress]', then pip install --no-deps kvpress"
"""Without its dependencies: it asks for an older transformers, and runs with a newer one."""


class Press(Protocol):
    """What this package uses of every press: a context manager around the forward that reads a context."""

    forward_hook: Callable[..., object]
    """(module, args, kwargs, output) of a layer's self-attention: compresses the layer's cache."""

    def __call__(self, model: PreTrainedModel, /) -> AbstractContextManager[None]: ...


@functools.cache
def library() -> ModuleType:
    """The module `kvpress`. Raises UserError where it is not installed.

    Its import wraps every attention function of transformers, for all models of the process, so that they look for
    entries that a press has masked. Here those are left out by `attend_kept`, so the functions are put back.
    """
    if version(PACKAGE) is None:
        raise UserError(f"The presses are those of kvpress: {INSTALL}.")
    functions = dict(ALL_ATTENTION_FUNCTIONS.items())
    try:
        module = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise UserError(f"kvpress needs the package '{error.name}': pip install 'sharedllm[kvpress]'.") from error
    finally:
        for name, function in functions.items():
            ALL_ATTENTION_FUNCTIONS[name] = function
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # it warns at every construction; docs/methods.md says the same
    return module


@functools.cache
def press_classes() -> dict[str, type[Press]]:
    """Every press that kvpress exports, by its class name in lower case without `Press`."""
    module = library()
    exported = [getattr(module, name) for name in module.__all__] + [module.RestoreKVPress]
    bases = (module.BasePress, module.ScorerPress, module.ComposedPress)
    found = [cls for cls in exported if isinstance(cls, type) and issubclass(cls, module.BasePress)]
    return {cls.__name__.removesuffix("Press").lower(): cast("type[Press]", cls) for cls in found if cls not in bases}
