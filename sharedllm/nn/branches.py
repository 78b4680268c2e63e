"""The two residual branches of a decoder layer, with norms and factors as its family has them (`Recipe`)."""

from __future__ import annotations

from typing import cast

import torch

from sharedllm.nn.fused import add_norm, mlp, rms_norm
from sharedllm.nn.layers import Decoder, DecoderLayer, Norm
from sharedllm.nn.recipes import recipe_of


def before_attention(layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
    """What a layer's attention reads of states (B, S, H)."""
    return _normed(layer, recipe_of(layer.self_attn).attention_in, hidden)


def after_attention(layer: DecoderLayer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """States (B, S, H) after the attention branch. attended: (B, S, H), after the output projection."""
    return _added(layer, hidden, _normed(layer, recipe_of(layer.self_attn).attention_out, attended))


def feed_forward(layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
    """States (B, S, H) after the MLP branch."""
    recipe = recipe_of(layer.self_attn)
    return _added(layer, hidden, _normed(layer, recipe.mlp_out, mlp(layer.mlp, _normed(layer, recipe.mlp_in, hidden))))


def finish_layer(layer: DecoderLayer, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Output projection and MLP of a decoder layer after its attention: (B, S, H) and (B, S, heads * d)."""
    return finish_branches(layer, residual, layer.self_attn.o_proj(attended))


def finish_branches(layer: DecoderLayer, residual: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """States (B, S, H) after both branches: `after_attention`, then `feed_forward`, in fewer passes over memory.
    update: (B, S, H), after the output projection."""
    if recipe_of(layer.self_attn).plain:
        hidden, normed = add_norm(layer.post_attention_layernorm, residual, update)
        return hidden + mlp(layer.mlp, normed)
    return feed_forward(layer, after_attention(layer, residual, update))


def finish_and_norm(
    layer: DecoderLayer, residual: torch.Tensor, update: torch.Tensor, follower: Norm
) -> tuple[torch.Tensor, torch.Tensor]:
    """`finish_branches` of a layer of Llama, and what the norm that follows makes of it, in fewer passes still."""
    hidden, normed = add_norm(layer.post_attention_layernorm, residual, update)
    return add_norm(follower, hidden, mlp(layer.mlp, normed))


def input_norms(decoder: Decoder) -> list[Norm]:
    """The norm before every layer of a decoder of Llama, and the final one."""
    return [*(layer.input_layernorm for layer in decoder.layers), decoder.norm]


def second_norm(layer: DecoderLayer) -> Norm:
    """The norm before the MLP; where there is none, the one after the attention."""
    recipe = recipe_of(layer.self_attn)
    return _norm(layer, recipe.mlp_in or recipe.attention_out or "post_attention_layernorm")


def _normed(layer: DecoderLayer, name: str | None, x: torch.Tensor) -> torch.Tensor:
    return x if name is None else rms_norm(_norm(layer, name), x)


def _norm(layer: DecoderLayer, name: str) -> Norm:
    return cast(Norm, getattr(layer, name))


def _added(layer: DecoderLayer, hidden: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    if recipe_of(layer.self_attn).scaled:
        update = update * cast(float, getattr(layer, "residual_multiplier"))  # noqa: B009 - not a declared member
    return hidden.to(update.device) + update
