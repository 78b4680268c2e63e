"""SharedLLM: context extension by multi-scale self-injection (arXiv 2603.04759, ICLR 2026).

>>> from sharedllm import SharedLLMForCausalLM
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharedllm.configuration import SharedLLMConfig
    from sharedllm.context import CompressedContext
    from sharedllm.modeling import SharedLLMForCausalLM

__all__ = ["CompressedContext", "SharedLLMConfig", "SharedLLMForCausalLM"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when a class is asked for; register the Auto classes then."""
    if name not in __all__:
        raise AttributeError(f"module 'sharedllm' has no attribute '{name}'")
    from transformers import AutoConfig, AutoModelForCausalLM

    from sharedllm.configuration import SharedLLMConfig
    from sharedllm.context import CompressedContext
    from sharedllm.modeling import SharedLLMForCausalLM

    AutoConfig.register("sharedllm", SharedLLMConfig, exist_ok=True)
    AutoModelForCausalLM.register(SharedLLMConfig, SharedLLMForCausalLM, exist_ok=True)
    return {
        "SharedLLMConfig": SharedLLMConfig,
        "CompressedContext": CompressedContext,
        "SharedLLMForCausalLM": SharedLLMForCausalLM,
    }[name]
