"""Static decoding steps of SharedLLM, after what a context was compressed to."""

from __future__ import annotations

from typing import cast

import torch

from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.static_attention import Tail, attend_all, joined
from evals.methods.decoding.static_decoder import CacheStep, Projected
from sharedllm import CompressedContext, SharedLLMForCausalLM
from sharedllm.context import LayerContext
from sharedllm.cross_attention import CrossAttention
from sharedllm.joint_attention import JointAttention
from sharedllm.nn.attention import project_keys, project_values
from sharedllm.nn.branches import after_attention, before_attention
from sharedllm.nn.layers import DecoderLayer, KeysValues, decoder_of, output_head


class SharedLLMStep(CacheStep):
    """The base's step, in which some layers read the context: with a cross-attention after the self-attention, or
    together with the running text."""

    def __init__(
        self, model: SharedLLMForCausalLM, context: CompressedContext | None, cache: BufferCache, tokens: int
    ) -> None:
        super().__init__(decoder_of(model.base), output_head(model), model.config.base_config, cache, tokens)
        self._cross: dict[int, tuple[CrossAttention, LayerContext]] = {}
        self._joint: dict[int, tuple[JointAttention, LayerContext]] = {}
        if context is None:
            return
        for number, index in enumerate(model.config.injection_layers):
            if model.config.attention == "cross":
                self._cross[index] = cast(CrossAttention, model.cross_attention[number]), context.layer(number)
            else:
                self._joint[index] = cast(JointAttention, model.joint_attention[number]), context.layer(number)
        if self._joint:
            self.position += model.config.chunk_size
            self.tails = [
                JointTail(tail, *self._joint[i]) if i in self._joint else tail for i, tail in enumerate(self.tails)
            ]

    def project(self, index: int, layer: DecoderLayer, hidden: torch.Tensor) -> Projected:
        if index not in self._joint:
            return super().project(index, layer, hidden)
        (reader, context), attention = self._joint[index], layer.self_attn
        normed = before_attention(layer, hidden)
        query = reader.queries(attention, normed, context)
        return query, project_keys(attention, normed), project_values(attention, normed)

    def output(self, index: int, layer: DecoderLayer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        if index not in self._joint:
            return super().output(index, layer, hidden, attended)
        reader, context = self._joint[index]
        return after_attention(layer, hidden, reader.output(layer.self_attn, attended, context))

    def between(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        if index not in self._cross:
            return hidden
        cross, context = self._cross[index]
        return cast(torch.Tensor, cross(hidden, context))


class JointTail(Tail):
    """A tail whose core has compressed entries before the running text."""

    def __init__(self, tail: Tail, reader: JointAttention, context: LayerContext) -> None:
        self.__dict__.update(tail.__dict__)
        self._entries: KeysValues = context.key, context.value
        if context.mask is not None:  # one row: what does not count is left out
            rows = context.mask[0].nonzero()[:, 0]
            self._entries = context.key.index_select(2, rows), context.value.index_select(2, rows)
        self._bias = reader.bias(context)

    def attend_core(self, query: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        text, text_sum = super().attend_core(query, scale)
        entries, entries_sum = attend_all(query, *self._entries, scale)
        heads = self._bias.view(1, query.shape[1], -1, 1)
        rows = torch.unflatten(entries_sum, 2, (heads.shape[2], -1))
        return joined(text, text_sum, entries, (rows + heads).flatten(2))
