"""A trained SharedLLM without its base: what was trained, the method's settings, and which base it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sharedllm.adapter_files import (
    BASE,
    OWN,
    AdapterRecord,
    adapter_settings,
    is_adapter,
    write_adapter,
)
from sharedllm.base_identity import fingerprint, sampled_values
from sharedllm.modeling import SharedLLMForCausalLM

__all__ = ["adapter_settings", "fingerprint", "is_adapter", "load_adapter", "save_adapter"]

SHARD_BYTES = 2**30


def save_adapter(
    model: SharedLLMForCausalLM,
    folder: str | Path,
    base_name: str,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write cross-attention or joint attention and every base parameter that requires a gradient, as safetensors.

    base_name: what people call the base, for the message when another one is given. shard_bytes: largest file.
    """
    trained = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.named_parameters()
        if name.startswith(OWN) or parameter.requires_grad
    }
    of_base = [n for n in trained if n.startswith(BASE)]
    own = [n.removeprefix(BASE) for n in of_base]
    record = AdapterRecord(
        format=1,
        base=base_name,
        base_model_type=model.config.base_config.model_type,
        base_revision=getattr(model.base.config, "_commit_hash", None),
        base_fingerprint=fingerprint(model.base, own),
        base_values=sampled_values(model.base, own),
        settings=model.config.method_settings(),
        trained_base_parameters=of_base,
    )
    write_adapter(Path(folder), trained, record, shard_bytes)


def load_adapter(
    folder: str | Path, base: PreTrainedModel | str | None = None, **settings: Any
) -> SharedLLMForCausalLM:
    """The model of an adapter laid over its base, in evaluation mode: `SharedLLMForCausalLM.from_adapter`."""
    return SharedLLMForCausalLM.from_adapter(folder, base, **settings)
