"""A trained SharedLLM without its base: what was trained, the method's settings, and which base it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sharedllm.adapter_files import adapter_settings, is_adapter
from sharedllm.base_identity import fingerprint
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.sharing import push_adapter, save_adapter

__all__ = ["adapter_settings", "fingerprint", "is_adapter", "load_adapter", "push_adapter", "save_adapter"]


def load_adapter(
    folder: str | Path, base: PreTrainedModel | str | None = None, **settings: Any
) -> SharedLLMForCausalLM:
    """The model of an adapter laid over its base, in evaluation mode: `SharedLLMForCausalLM.from_adapter`."""
    return SharedLLMForCausalLM.from_adapter(folder, base, **settings)
