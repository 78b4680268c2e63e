"""What the decoder layers of each known family do otherwise than Llama's, declared.

Every layer is h + m * out(attention(in(h))), then the same with the MLP. Sliding windows, head sizes and frequencies
are read from the config (`sharedllm.nn.base_config`), norms of queries and keys from the layer itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Recipe:
    """A family of decoder layers, in transformers' names.

    attention_in, attention_out, mlp_in, mlp_out: norms before and after each branch, None where there is none.
    fused: one projection `qkv_proj` gives queries, keys and values, in this order.
    scaled: embeddings are multiplied by the decoder's `embedding_multiplier`, branches by `residual_multiplier`.
    some_unrotated: layers whose `use_rope` is false have no positions.
    tables: there is a rotary embedding for each kind of layers (`layer_type`).
    mixture: the MLP is a mixture of experts; without a grouped kernel for the dtype, the host sorts tokens to experts,
    which no CUDA graph allows.
    """

    attention_in: str | None = "input_layernorm"
    attention_out: str | None = None
    mlp_in: str | None = "post_attention_layernorm"
    mlp_out: str | None = None
    fused: bool = False
    scaled: bool = False
    some_unrotated: bool = False
    tables: bool = False
    mixture: bool = False

    @property
    def plain(self) -> bool:
        """Whether the second norm directly follows the first residual sum, so that both are one operation."""
        return self.attention_out is None and self.mlp_in is not None and not self.scaled


LLAMA = Recipe()
RECIPES: dict[str, Recipe] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "qwen3_moe": Recipe(mixture=True),
    "phi3": Recipe(fused=True),
    "smollm3": Recipe(some_unrotated=True),
    "granite": Recipe(scaled=True),
    "olmo2": Recipe(
        attention_in=None,
        attention_out="post_attention_layernorm",
        mlp_in=None,
        mlp_out="post_feedforward_layernorm",
    ),
    "gemma3_text": Recipe(
        attention_out="post_attention_layernorm",
        mlp_in="pre_feedforward_layernorm",
        mlp_out="post_feedforward_layernorm",
        tables=True,
    ),
}
"""By `model_type` of the text decoder. Rotary embeddings pair dimension i with i + d / 2 of the d that they rotate."""


class HasConfig(Protocol):
    """An attention module of transformers, as far as its family is asked for."""

    @property
    def config(self) -> PreTrainedConfig: ...


def recipe_of(attention: HasConfig) -> Recipe:
    """The recipe of an attention module's family; Llama's for models of our own, which have its layers."""
    return RECIPES.get(attention.config.model_type, LLAMA)
