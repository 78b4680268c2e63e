"""Attention pieces that the lower model and the cross-attention share, for every Llama-like base.

Shapes: B batch, S tokens, H hidden, q / kv number of query / key heads, d head size. Where a model is spread over
several devices, everything follows the layer's own tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import rotate_half


def project_queries(attention: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Queries (B, q, S, d) before rotation, with the base's per-head norm where it has one (Qwen3)."""
    query = _heads(attention.q_proj(hidden), attention)
    return attention.q_norm(query).transpose(1, 2) if hasattr(attention, "q_norm") else query.transpose(1, 2)


def project_keys(attention: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Keys (B, kv, S, d) before rotation."""
    key = _heads(attention.k_proj(hidden), attention)
    return attention.k_norm(key).transpose(1, 2) if hasattr(attention, "k_norm") else key.transpose(1, 2)


def project_values(attention: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Values (B, kv, S, d)."""
    return _heads(attention.v_proj(hidden), attention).transpose(1, 2)


def _heads(x: torch.Tensor, attention: Any) -> torch.Tensor:
    return x.unflatten(-1, (-1, attention.head_dim))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x (B, heads, S, d) by cos and sin that broadcast to it."""
    return x * cos.to(x.device) + rotate_half(x) * sin.to(x.device)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v, (B, q, S, d) -> (B, S, q * d); grouped key heads are not copied.

    mask: boolean, True where a key may be read, broadcastable to (B, 1, S, keys).
    """
    grouped = query.shape[1] != key.shape[1]
    if grouped and mask is not None:  # fused kernels take a mask or grouped heads, not both
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        grouped = False
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)


def attend_nodes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Causal attention inside each of the packed nodes: (B, heads, S, d) -> (B, S, heads * d), S = sum(sizes)."""
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([attend(q, k, v, causal=True) for q, k, v in parts], 1)


def finish_layer(layer: Any, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Output projection and MLP of a decoder layer behind its attention: (B, S, H) and (B, S, heads * d)."""
    update = layer.self_attn.o_proj(attended)
    hidden = residual.to(update.device) + update
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def rows(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """x (B, heads, S, d) at tokens (B, T) -> (B, heads, T, d)."""
    return x.gather(2, tokens.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
