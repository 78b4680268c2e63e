"""LongLLaMA's static step: one token after the local cache and, in the memory layers, all of the memory."""

from __future__ import annotations

import torch

from baselines.longllama.memory import LongLlamaState, MemoryLayer
from baselines.longllama.modeling import LongLlamaForCausalLM
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep, Rows
from sharedllm.nn.attention import merged
from sharedllm.nn.branches import before_attention
from sharedllm.nn.layers import Decoder, DecoderLayer, decoder_of, output_head


class LongLLaMAStep(DecoderStep[Decoder]):
    """tokens: no more than the local cache takes before it is flushed. Memory layers also keep keys without rotation,
    as memory stores them."""

    def __init__(self, model: LongLlamaForCausalLM, state: LongLlamaState, tokens: int) -> None:
        held = [layer.held() for layer in state.layers]
        lengths = [keys.shape[2] for keys, _ in held]
        by_length = {length: Reach(length, tokens, None, model.device) for length in set(lengths)}
        reaches = [by_length[length] for length in lengths]
        tails = [Tail(reach, pair) for reach, pair in zip(reaches, held, strict=True)]
        super().__init__(decoder_of(model), output_head(model), state.local, reaches, tails)
        self._model, self._state = model, state
        self._raw = {
            index: torch.zeros_like(tail.keys)
            for index, (tail, layer) in enumerate(zip(tails, state.layers, strict=True))
            if isinstance(layer, MemoryLayer)
        }

    def attend(self, index: int, layer: DecoderLayer, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        assert rows.rotation is not None
        attention = layer.self_attn
        made = self._model.project(attention, before_attention(layer, hidden), rows.rotation, raw=index in self._raw)
        tail = self.tails[index]
        tail.write(rows.place, made.keys, made.values)
        if made.raw is not None:
            self._raw[index].index_copy_(2, rows.place, made.raw)
        out = tail.attend(made.queries, rows.bias, attention.scaling)
        return self.output(index, layer, hidden, merged(out[..., : attention.head_dim]))

    def finish(self) -> None:
        for index, (tail, layer) in enumerate(zip(self.tails, self._state.layers, strict=True)):
            keys, values = tail.new(self.count)
            raw = self._raw[index][:, :, : self.count] if index in self._raw else None
            layer.append(raw, keys, values)
        self._state.local += self.count
