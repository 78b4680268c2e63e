"""Memory of a base model by arithmetic, without loading a weight."""

from __future__ import annotations

from dataclasses import dataclass

from evals.errors import UserError
from evals.methods import weights
from evals.run.identity import ModelChoice
from evals.run.on_meta import config_here
from sharedllm.errors import reading


@dataclass(frozen=True)
class Expected:
    """Bytes by arithmetic. kv_token_bytes: one token in a dense KV cache, the upper bound of every method."""

    weight_bytes: int
    kv_token_bytes: int


def expected_memory(choice: ModelChoice) -> Expected | None:
    """Memory of the base model from its shape, or from a config that is on this machine; else, and for a served
    model, None.

    The parameters are counted on torch's meta device, which allocates nothing. Raises UserError for a config that no
    model can be built from.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from evals.methods.flops import kv_bytes

    preset = choice.preset
    if choice.method.remote:
        return None
    if preset.shape:
        config = weights.shape_config(preset.shape)
    else:
        try:
            config = config_here(preset, choice.runtime)
        except UserError:
            return None
    with torch.device("meta"), reading(f"The config of {preset.name}", "correct its fields"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())  # type: ignore[no-untyped-call]
    dtype: torch.dtype = getattr(torch, choice.runtime.dtype)
    return Expected(parameters * dtype.itemsize, kv_bytes(config, dtype))
