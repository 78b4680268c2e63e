"""The tiny models of the tests: the shape that lies on disk, and the decoders that SharedLLM is built on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sharedllm import SharedLLMForCausalLM

TINY_SHAPE = {
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 768,
}
"""A Llama over bytes with a window of 768 tokens: what preset files of the tests name."""

VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
"""Of a multimodal Gemma 3, which is never run."""

CHUNK, VOCABULARY = 20, 64
BASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": CHUNK},
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
    "qwen3": {"head_dim": 12},
    "qwen3_moe": {"head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "phi3": {"sliding_window": None, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "smollm3": {"no_rope_layers": [1, 0, 1], "use_sliding_window": False},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 4.0,
    },
    "olmo2": {},
    "gemma3_text": {
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def base_model(kind: str = "llama", **fields: Any) -> PreTrainedModel:
    """A random decoder of 3 layers with the particulars of its family."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **{**BASES[kind], **fields},
    )
    model = AutoModelForCausalLM.from_config(config)
    if kind != "llama":  # norms that are all alike would hide which one is taken
        for parameter in model.parameters():
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def shared_model(base: PreTrainedModel | None = None, **method: Any) -> SharedLLMForCausalLM:
    """Two lower layers, trees of height 2, and a cross-attention that matters."""
    usual = {"chunk_size": CHUNK, "ratios": [4, 2], "lower_layers": 2, "policy": "maxsim"}
    model = SharedLLMForCausalLM.from_base(base_model() if base is None else base, **{**usual, **method})
    torch.manual_seed(1)
    for cross in model.cross_attention:
        nn.init.normal_(cross.o_proj.weight, std=0.3)
    return model.eval()
