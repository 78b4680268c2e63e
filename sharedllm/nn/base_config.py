"""The one place that reads the config of a base model, since families name and leave out fields as they like.

Functions take the config of a causal LM and look at its text part: multimodal models (Gemma 3, Llama 4) wrap that in
another config.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from sharedllm.errors import UserError

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change with the length."""
FAR = "full_attention"
"""The kind of layers that see everything."""
ATTENDING = (FAR, "sliding_attention", "chunked_attention")
"""`layer_types` of layers that attend to keys and values of earlier tokens and keep no other state."""
RESCALED = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale")
"""Fields of bases whose logits are not simply `output_head` of the final hidden state, or whose attention scores are
capped, which SDPA does not do."""


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part that describes the decoder: the config itself, where nothing wraps it."""
    return config.get_text_config(decoder=True)


def head_dim(config: PreTrainedConfig) -> int:
    """Size of one attention head; many families leave it to hidden size / heads."""
    config = text_config(config)
    size: int | None = getattr(config, "head_dim", None)
    return size or config.hidden_size // config.num_attention_heads


def key_value_heads(config: PreTrainedConfig) -> int:
    """Heads that keys and values have; as many as queries where the family does not group them (GPT-NeoX, OPT). Falcon
    and GPT-BigCode say in words of their own whether all queries share one."""
    config = text_config(config)
    grouped = getattr(config, "new_decoder_architecture", False)
    if getattr(config, "multi_query", False) and not grouped:
        return 1
    heads: int | None = getattr(config, "num_kv_heads" if grouped else "num_key_value_heads", None)
    return heads or int(config.num_attention_heads)


def mlp_width(config: PreTrainedConfig) -> float:
    """Width of the gated MLP that a token passes, on average over layers; of a mixture of experts (Qwen3 MoE) those
    that it visits, and the router as a share of one more."""
    config = text_config(config)
    experts: int = getattr(config, "num_experts", None) or 0
    if not experts:
        return float(config.intermediate_size)
    layers, dense = range(config.num_hidden_layers), set(config.mlp_only_layers)
    mixed = [i for i in layers if i not in dense and (i + 1) % config.decoder_sparse_step == 0]
    visited = config.num_experts_per_tok * config.moe_intermediate_size + experts / 3
    return float(len(mixed) * visited + (len(layers) - len(mixed)) * config.intermediate_size) / len(layers)


def positions(config: PreTrainedConfig) -> int | None:
    """Tokens that the base was made for; None where its config does not say (ALiBi)."""
    found: int | None = getattr(text_config(config), "max_position_embeddings", None)
    return found


def sliding_window(config: PreTrainedConfig, index: int) -> int | None:
    """Tokens that a layer of the base looks back, itself included; None where it sees everything."""
    config = text_config(config)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[index] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def windows(config: PreTrainedConfig) -> list[int | None]:
    """`sliding_window` of every layer."""
    return [sliding_window(config, index) for index in range(text_config(config).num_hidden_layers)]


def rope_table(config: PreTrainedConfig) -> dict[str, Any]:
    """The rotary embedding's parameters (`rope_type`, `rope_theta`, ...), a copy. Where there is one for each kind of
    layers (Gemma 3), those of the layers that see everything. Raises UserError for a base without (OPT)."""
    config = text_config(config)
    table: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    table = table.get(FAR, table)
    if any(isinstance(value, dict) for value in table.values()):
        raise UserError(f"A base of type '{config.model_type}' has a rotary embedding for each kind of layers")
    if "rope_theta" not in table:
        raise UserError(f"A base of type '{config.model_type}' has no rotary embedding")
    return {"rope_type": "default", **table}


def with_rope_table(config: PreTrainedConfig, table: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of a config in which `table` has taken the place of `rope_table`."""
    tables: dict[str, Any] = text_config(config).rope_parameters
    return {**tables, FAR: table} if FAR in tables else table


def rotary_dim(config: PreTrainedConfig) -> int:
    """Dimensions of a head that the rotary embedding rotates: all, or a part (GPT-NeoX, GLM-4, StableLM)."""
    return int(head_dim(config) * rope_table(config).get("partial_rotary_factor", 1.0))


def steady_length(config: PreTrainedConfig) -> int | None:
    """Length up to which rotary frequencies stay the same (dynamic NTK, LongRoPE); None: at any length."""
    config = text_config(config)
    table: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    tables = [value for value in table.values() if isinstance(value, dict)] or [table]
    lengths = [
        int(each.get("original_max_position_embeddings") or config.max_position_embeddings)
        for each in tables
        if each.get("rope_type") in LENGTH_DEPENDENT
    ]
    return min(lengths, default=None)


def check_family(config: PreTrainedConfig, stateful: bool = False) -> None:
    """Raises UserError for a base that cannot be read as keys and values, one entry per token, or whose logits are not
    those of its output head. stateful: whether transformers marks the model's class so (`_is_stateful`)."""
    text = text_config(config)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"A model of type '{config.model_type}' has an encoder: choose a decoder-only base")
    others = sorted(set(getattr(text, "layer_types", None) or ()) - set(ATTENDING))
    if others or stateful:
        kind = f"layers of kind {', '.join(others)}" if others else "recurrent layers"
        raise UserError(
            f"A base of type '{text.model_type}' has {kind}, whose state cannot be cut back to an earlier token: "
            "choose one whose layers all attend to keys and values"
        )
    scaled = next((name for name in RESCALED if getattr(text, name, None) not in (None, 1)), None)
    if scaled:
        raise UserError(f"A base of type '{text.model_type}' rescales its logits ({scaled}): choose another")
