"""SharedLLM: context extension by multi-scale self-injection (arXiv 2603.04759, ICLR 2026).

>>> from sharedllm import SharedLLMForCausalLM, load_shipped

Importing it makes its models known to transformers' AutoConfig and AutoModelForCausalLM. torch and transformers are
imported when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharedllm.registration import register

if TYPE_CHECKING:
    from sharedllm.configuration import SharedLLMConfig
    from sharedllm.context import CompressedContext
    from sharedllm.modeling import SharedLLMForCausalLM
    from sharedllm.shipped import load_shipped

_HOMES = {
    "CompressedContext": "sharedllm.context",
    "SharedLLMConfig": "sharedllm.configuration",
    "SharedLLMForCausalLM": "sharedllm.modeling",
    "load_shipped": "sharedllm.shipped",
}
__all__ = ["CompressedContext", "SharedLLMConfig", "SharedLLMForCausalLM", "load_shipped"]

register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sharedllm' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
