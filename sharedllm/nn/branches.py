"""The two residual branches of a decoder layer, with norms and factors as its family has them (`Recipe`)."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from sharedllm.nn import row
from sharedllm.nn.attention import project_keys, project_queries, project_values, split_heads
from sharedllm.nn.fused import add_norm, mlp, rms_norm
from sharedllm.nn.layers import Decoder, DecoderLayer, Norm, Projection
from sharedllm.nn.recipes import recipe_of


def before_attention(layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
    """What a layer's attention reads of states (B, S, H)."""
    return _normed(layer, recipe_of(layer.self_attn).attention_in, hidden)


def project(layer: DecoderLayer, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values (B, heads, S, d) before rotation that a layer makes of states (B, S, H)."""
    attention, recipe = layer.self_attn, recipe_of(layer.self_attn)
    if recipe.attention_in is not None and not recipe.fused and row.is_row(hidden):
        norm, linears = _norm(layer, recipe.attention_in), [attention.q_proj, attention.k_proj, attention.v_proj]
        if row.is_plain_norm(norm, hidden) and row.are_plain(linears, hidden):
            sizes = [len(linear.weight) for linear in cast(list[nn.Linear], linears)]
            made = torch.split(row.products(hidden, linears, norm), sizes, -1)
            norms = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None), None
            query, key, value = (split_heads(x, attention.head_dim, n) for x, n in zip(made, norms, strict=True))
            return query, key, value
    normed = before_attention(layer, hidden)
    return project_queries(attention, normed), project_keys(attention, normed), project_values(attention, normed)


def add_attention(layer: DecoderLayer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """States (B, S, H) after the attention branch. attended: (B, S, heads * d), before the output projection."""
    recipe = recipe_of(layer.self_attn)
    if recipe.attention_out is None and not recipe.scaled:
        return add_projected(hidden, attended, layer.self_attn.o_proj)
    return after_attention(layer, hidden, layer.self_attn.o_proj(attended))


def add_projected(hidden: torch.Tensor, x: torch.Tensor, projection: Projection) -> torch.Tensor:
    """hidden + projection(x)."""
    if row.is_row(x) and row.are_plain([projection], x):
        return row.products(x, [projection], residual=hidden)
    update = projection(x)
    return hidden.to(update.device) + update


def project_normed(norm: Norm, hidden: torch.Tensor, projection: Projection) -> torch.Tensor:
    """projection(norm(hidden))."""
    if row.is_row(hidden) and row.is_plain_norm(norm, hidden) and row.are_plain([projection], hidden):
        return row.products(hidden, [projection], norm)
    return projection(rms_norm(norm, hidden))


def after_attention(layer: DecoderLayer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """States (B, S, H) after the attention branch. attended: (B, S, H), after the output projection."""
    return _added(layer, hidden, _normed(layer, recipe_of(layer.self_attn).attention_out, attended))


def feed_forward(layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
    """States (B, S, H) after the MLP branch."""
    recipe = recipe_of(layer.self_attn)
    if recipe.mlp_in is not None and recipe.mlp_out is None and not recipe.scaled and row.is_row(hidden):
        norm, block = _norm(layer, recipe.mlp_in), layer.mlp
        if row.is_plain_norm(norm, hidden) and row.is_plain_mlp(block, hidden):
            return row.products(row.gated(hidden, block, norm), [block.down_proj], residual=hidden)
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
    layer: DecoderLayer,
    residual: torch.Tensor,
    update: torch.Tensor,
    follower: Norm,
    into: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`finish_branches` of a plain layer, and what the norm that follows makes of it, in fewer passes still. into:
    where the states go, which may be where the residual is."""
    hidden, normed = add_norm(layer.post_attention_layernorm, residual, update)
    return add_norm(follower, hidden, mlp(layer.mlp, normed), into)


def input_norms(decoder: Decoder) -> list[Norm]:
    """The norm before every layer of a decoder of plain layers, and the final one."""
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
