"""One layer of the upper model in pieces: self-attention, then cross-attention to the context, then the MLP. With joint
attention the self-attention reads the context.

Plain functions of tensors and modules, so that torch.compile makes one graph for all layers and gradient checkpointing
can run each piece again.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache

from sharedllm.context import LayerContext
from sharedllm.cross_attention import CrossAttention
from sharedllm.joint_attention import JointAttention
from sharedllm.nn.attention import self_attention
from sharedllm.nn.branches import after_attention, before_attention, feed_forward, finish_branches
from sharedllm.nn.layers import DecoderLayer, Rotation


def attend_to_text(
    layer: DecoderLayer,
    hidden: torch.Tensor,
    mask: torch.Tensor | None,
    rotation: Rotation | None,
    cache: Cache | None,
) -> torch.Tensor:
    """Self-attention with its residual, (B, S, H) -> (B, S, H). mask, rotation, cache: see `self_attention`."""
    attended = self_attention(layer.self_attn, before_attention(layer, hidden), mask, rotation, cache)
    return after_attention(layer, hidden, attended)


def read_context(
    layer: DecoderLayer, cross: CrossAttention | None, hidden: torch.Tensor, context: LayerContext | None
) -> torch.Tensor:
    """The rest of the layer: cross-attention, where it has one and there is a context, and the MLP."""
    if cross is not None and context is not None:
        hidden = cross(hidden, context)
    return feed_forward(layer, hidden)


def upper_layer(
    layer: DecoderLayer,
    hidden: torch.Tensor,
    mask: torch.Tensor | None,
    rotation: Rotation | None,
    cache: Cache | None,
    reader: CrossAttention | JointAttention | None,
    context: LayerContext | None,
) -> torch.Tensor:
    """`attend_to_text`, then `read_context`; or joint attention or self-attention alone, then the MLP."""
    if isinstance(reader, CrossAttention) and context is not None:
        return read_context(layer, reader, attend_to_text(layer, hidden, mask, rotation, cache), context)
    normed = before_attention(layer, hidden)
    if isinstance(reader, JointAttention) and context is not None:
        attended = reader(layer.self_attn, normed, mask, rotation, cache, context)
    else:
        attended = self_attention(layer.self_attn, normed, mask, rotation, cache)
    return finish_branches(layer, hidden, attended)
