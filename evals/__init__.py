"""The harness. Its public names live here and are imported when they are first used, so that nothing waits for torch.
Part of the package sharedllm.

>>> from evals import LongContextModel, Session, Query, Cost, Task
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.errors import UserError as UserError
    from evals.measure.task import Measured as Measured
    from evals.measure.task import MeasuredTask as MeasuredTask
    from evals.methods.base import Cost as Cost
    from evals.methods.base import LongContextModel as LongContextModel
    from evals.methods.base import MethodSettings as MethodSettings
    from evals.methods.base import NotFiniteError as NotFiniteError
    from evals.methods.base import Query as Query
    from evals.methods.base import Request as Request
    from evals.methods.base import Runtime as Runtime
    from evals.methods.base import Session as Session
    from evals.methods.base import Stop as Stop
    from evals.methods.base import common_fields as common_fields
    from evals.methods.decoding.buffer_session import BufferSession as BufferSession
    from evals.methods.decoding.session import CachedSession as CachedSession
    from evals.methods.flops import kv_bytes as kv_bytes
    from evals.methods.flops import parameter_cost as parameter_cost
    from evals.methods.presets import Preset as Preset
    from evals.methods.presets import Weights as Weights
    from evals.methods.presets import load_preset as load_preset
    from evals.methods.tokenizers import byte_tokenizer as byte_tokenizer
    from evals.methods.weights import load_base as load_base
    from evals.registry import method as method
    from evals.tasks.base import BaseTask as BaseTask
    from evals.tasks.base import Instance as Instance
    from evals.tasks.base import Output as Output
    from evals.tasks.base import Task as Task
    from evals.tasks.base import TaskSettings as TaskSettings
    from evals.tasks.common.prompt import Prompt as Prompt
    from evals.tasks.common.prompt_builder import PromptBuilder as PromptBuilder
    from evals.tasks.common.source import DataSource as DataSource
    from evals.tasks.settings.controls import ContextSettings as ContextSettings

_HOMES = {
    "evals.errors": ("UserError",),
    "evals.measure.task": ("Measured", "MeasuredTask"),
    "evals.methods.base": (
        "Cost",
        "LongContextModel",
        "MethodSettings",
        "NotFiniteError",
        "Query",
        "Request",
        "Runtime",
        "Session",
        "Stop",
        "common_fields",
    ),
    "evals.methods.decoding.buffer_session": ("BufferSession",),
    "evals.methods.decoding.session": ("CachedSession",),
    "evals.methods.flops": ("kv_bytes", "parameter_cost"),
    "evals.methods.presets": ("Preset", "Weights", "load_preset"),
    "evals.methods.tokenizers": ("byte_tokenizer",),
    "evals.methods.weights": ("load_base",),
    "evals.registry": ("method",),
    "evals.tasks.base": ("BaseTask", "Instance", "Output", "Task", "TaskSettings"),
    "evals.tasks.common.prompt": ("Prompt",),
    "evals.tasks.common.prompt_builder": ("PromptBuilder",),
    "evals.tasks.common.source": ("DataSource",),
    "evals.tasks.settings.controls": ("ContextSettings",),
}
_TARGETS = {name: (module, name) for module, names in _HOMES.items() for name in names}

__all__ = sorted(_TARGETS)


def __getattr__(name: str) -> Any:
    if name not in _TARGETS:
        raise AttributeError(f"module 'evals' has no attribute '{name}'")
    module, attribute = _TARGETS[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
