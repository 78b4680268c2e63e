"""LongLLaMA over a base: the same weights, with a window and memory layers."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from baselines.around import around, llama
from baselines.longllama.modeling import LongLlamaConfig, LongLlamaForCausalLM
from sharedllm.errors import UserError


def over_base(base: PreTrainedModel, window: int, mem_layers: Sequence[int] | None) -> LongLlamaForCausalLM:
    """The model around a base, whose tensors it shares.

    mem_layers: by default at a quarter, a half and three quarters of the depth, as in the released models (6, 12, 18 of
    26 layers; 8, 16, 24 of 32). Half of the window is local context at first (`last_context_length`), as released.
    Raises UserError for a base of another family than Llama's, and a window or layers that it does not have.
    """
    base = llama(base, "LongLLaMA")
    positions, quarter = int(base.config.max_position_embeddings), int(base.config.num_hidden_layers) // 4
    if window > positions:
        raise UserError(f"The base has {positions} positions, not {window}: lower window.")
    if mem_layers is None:
        mem_layers = sorted({quarter, 2 * quarter, 3 * quarter})
    config = LongLlamaConfig.from_dict(
        {
            **base.config.to_dict(),
            "model_type": LongLlamaConfig.model_type,
            "max_position_embeddings": window,
            "last_context_length": max(window // 2, 1),
            "mem_layers": list(mem_layers),
        }
    )
    return around(LongLlamaForCausalLM, base, config)
