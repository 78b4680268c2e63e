"""The one place that reads the config of a base model, since families name and leave out fields as they like."""

from __future__ import annotations

from transformers import PreTrainedConfig


def head_dim(config: PreTrainedConfig) -> int:
    """Size of one attention head; many families leave it to hidden size / heads."""
    size: int | None = getattr(config, "head_dim", None)
    return size or config.hidden_size // config.num_attention_heads


def key_value_heads(config: PreTrainedConfig) -> int:
    """Heads that keys and values have; as many as queries where the family does not group them (GPT-NeoX, OPT)."""
    heads: int | None = getattr(config, "num_key_value_heads", None)
    return heads or int(config.num_attention_heads)


def sliding_window(config: PreTrainedConfig, index: int) -> int | None:
    """Tokens that a layer of the base looks back, itself included; None where it sees everything."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[index] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def windows(config: PreTrainedConfig) -> list[int | None]:
    """`sliding_window` of every layer."""
    return [sliding_window(config, index) for index in range(config.num_hidden_layers)]
