"""Position-aware tree cross-attention (paper section 3.2, equation 2)."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from sharedllm.context import LayerContext
from sharedllm.nn.attention import attend, query_projection, split_heads
from sharedllm.nn.branches import add_projected, project_normed, second_norm
from sharedllm.nn.fused import rotate
from sharedllm.nn.layers import DecoderLayer, Norm


class CrossAttention(nn.Module):
    """h + o_proj(softmax(Q K'^T / sqrt(d)) V') over the compressed context of one layer, not causal.

    It has no key or value projection: K' and V' come from the lower model's self-attention as they are, grouped
    heads included. All queries take one position, after the last chunk. The output projection starts at zero, so
    that an untrained model equals its base; starting from a copy destroys the base in the first steps. It rotates
    queries and keys in every layer, with the rotary embedding of the base's layers that see everything.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        """Shapes and start values from a decoder layer: q from its self-attention, the norm from its second norm."""
        super().__init__()
        attention = layer.self_attn
        self.head_dim = attention.head_dim
        self.scaling = attention.scaling
        self.norm: Norm = copy.deepcopy(second_norm(layer))
        self.q_proj = query_projection(attention)
        if hasattr(attention, "q_norm"):
            self.q_norm = copy.deepcopy(attention.q_norm)
        self.o_proj = copy.deepcopy(cast(nn.Linear, attention.o_proj))
        self.reset_output()

    def reset_output(self) -> None:
        """Make the block the identity."""
        for parameter in self.o_proj.parameters():
            if parameter.device.type != "meta":
                nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor, context: LayerContext) -> torch.Tensor:
        """hidden (B, S, H) -> (B, S, H)."""
        query = project_normed(self.norm, hidden, self.q_proj)
        query = split_heads(query, self.head_dim, getattr(self, "q_norm", None))
        assert context.rotation is not None
        query = rotate(query, *context.rotation)
        if context.mask is None:
            return add_projected(hidden, attend(query, context.key, context.value, scale=self.scaling), self.o_proj)
        mask = context.mask[:, None, None, :].to(query.device)
        some = mask.any(-1, keepdim=True)  # a row without any chunk reads nothing, which no softmax can express
        out = self.o_proj(attend(query, context.key, context.value, mask=mask | ~some, scale=self.scaling))
        return hidden + torch.where(some[:, 0], out, 0.0)
