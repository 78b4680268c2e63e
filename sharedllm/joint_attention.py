"""Joint attention: a layer's own self-attention reads [compressed entries ; running text] in one softmax.

The base's heads do what they do in a longer context, where a cross-attention has to learn it anew. Entries have their
positions inside the node, the running text follows from `chunk_size` on. What is learnt: low-rank updates of the query
and output projections, and per head a bias on the scores of entries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache

from sharedllm.context import LayerContext
from sharedllm.nn.attention import attend, attend_last, merged, project_keys, project_queries, project_values
from sharedllm.nn.base_config import text_config
from sharedllm.nn.layers import Attention, DecoderLayer, Rotation
from sharedllm.nn.rotation import apply_rotation

EXTRA = 8
"""Dimensions added to a head, which carry bias and mask into the scores: a kernel's own mask (bottom-right causal)
needs no tensor, but takes no bias either. Two are used; fused kernels want multiples of eight."""
HIDDEN = -6e4
"""Score of an entry that does not count, before scaling: far below all others, and still a float16."""
USUAL = 1024
"""Entries for which `offset` is the whole bias."""


class JointAttention(nn.Module):
    """What one reading layer learns. The bias on the score of an entry is offset - slope * log(entries / USUAL).

    At slope 1, where it starts, the weight of all entries together does not grow with their number. Without a context
    the layer is the base's, trained or not.
    """

    def __init__(self, layer: DecoderLayer, rank: int) -> None:
        """Shapes from a decoder layer; the updates start as nothing."""
        super().__init__()
        config = text_config(layer.self_attn.config)
        heads, hidden = config.num_attention_heads, config.hidden_size
        width = heads * layer.self_attn.head_dim
        self.q_down, self.q_up = nn.Linear(hidden, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.o_down, self.o_up = nn.Linear(width, rank, bias=False), nn.Linear(rank, hidden, bias=False)
        self.offset, self.slope = nn.Parameter(torch.empty(heads)), nn.Parameter(torch.empty(heads))
        self.reset()

    def reset(self) -> None:
        """Start values."""
        if self.offset.device.type == "meta":
            return
        for down, up in ((self.q_down, self.q_up), (self.o_down, self.o_up)):
            nn.init.kaiming_uniform_(down.weight, a=5**0.5)  # as nn.Linear starts
            nn.init.zeros_(up.weight)
        nn.init.zeros_(self.offset)
        nn.init.ones_(self.slope)

    def forward(
        self,
        attention: Attention,
        normed: torch.Tensor,
        mask: torch.Tensor | None,
        rotation: Rotation | None,
        cache: Cache | None,
        context: LayerContext,
    ) -> torch.Tensor:
        """Self-attention over normed states, (B, S, H) -> (B, S, H). mask: (B or 1, 1, S, keys), True where a key of
        the running text may be read; None is causal. rotation, cache: as in `self_attention`."""
        query = apply_rotation(self.queries(attention, normed, context), rotation)
        key, value = apply_rotation(project_keys(attention, normed), rotation), project_values(attention, normed)
        if cache is not None:
            key, value = cache.update(key, value, attention.layer_idx)
        dropout = attention.attention_dropout if attention.training else 0.0
        read = attend_jointly(query, key, value, context, self.bias(context), mask, attention.scaling, dropout)
        return self.output(attention, read, context)

    def queries(self, attention: Attention, normed: torch.Tensor, context: LayerContext) -> torch.Tensor:
        """Queries (B, q, S, d) before rotation."""
        return project_queries(attention, normed, _where_read(self.q_up(self.q_down(normed)), context))

    def output(self, attention: Attention, attended: torch.Tensor, context: LayerContext) -> torch.Tensor:
        """Output projection, (B, S, q * d) -> (B, S, H)."""
        return attention.o_proj(attended) + _where_read(self.o_up(self.o_down(attended)), context)

    def bias(self, context: LayerContext) -> torch.Tensor:
        """What is added to the scores of entries, (B or 1, heads), in float32 at least."""
        precise = torch.promote_types(self.offset.dtype, torch.float32)
        if context.mask is None:
            count = torch.full((1, 1), context.key.shape[2], dtype=precise, device=context.key.device)
        else:
            count = context.mask.sum(-1, keepdim=True).clamp(min=1).to(precise)
        return self.offset.to(precise) - self.slope.to(precise) * (count / USUAL).log()


def attend_jointly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    context: LayerContext,
    bias: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """One softmax over entries and running text: (B, q, S, d) on (B, kv, keys, d) -> (B, S, q * d).

    Every query reads all entries that count, and of the running text what `mask` (as in `JointAttention`) says.
    """
    size, entries, text = query.shape[-1], context.key.shape[2], key.shape[2]
    marks = query.new_zeros(len(query) if context.mask is not None else 1, 1, entries + text, EXTRA)
    marks[..., :entries, 0] = 1.0
    if context.mask is not None:
        marks[:, 0, :entries, 1] = (~context.mask).to(marks.dtype) * HIDDEN
    signs = torch.stack([bias / scale, torch.ones_like(bias)], -1)[:, :, None]
    signs = F.pad(signs, (0, EXTRA - 2)).to(query.dtype).expand(*query.shape[:3], EXTRA)
    query = torch.cat([query, signs], -1)
    keys = torch.cat([context.key, key], 2)
    keys = torch.cat([keys, marks.expand(*keys.shape[:3], EXTRA)], -1)
    values = F.pad(torch.cat([context.value, value], 2), (0, EXTRA))
    if mask is None:
        out = merged(attend_last(query, keys, values, scale, dropout))
    else:
        out = attend(query, keys, values, mask=F.pad(mask, (entries, 0), value=True), scale=scale, dropout=dropout)
    return torch.unflatten(out, -1, (-1, size + EXTRA))[..., :size].flatten(2)


def _where_read(update: torch.Tensor, context: LayerContext) -> torch.Tensor:
    """An update (B, S, ...) in rows that read an entry, nothing in the others."""
    return update if context.mask is None else update * context.mask.any(-1)[:, None, None].to(update.dtype)
