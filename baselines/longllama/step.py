"""LongLLaMA's static step: one token after the local cache and, in the memory layers, all of the memory."""

from __future__ import annotations

import torch

from baselines.longllama.memory import LongLlamaState, MemoryLayer
from baselines.longllama.modeling import LongLlamaForCausalLM
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep, Projected, Rows
from sharedllm.nn import flash_decoding
from sharedllm.nn.layers import Decoder, decoder_of, output_head


class LongLLaMAStep(DecoderStep[Decoder]):
    """tokens: no more than the local cache takes before it is flushed. Memory layers also keep keys without rotation,
    as memory stores them."""

    def __init__(self, model: LongLlamaForCausalLM, state: LongLlamaState, tokens: int) -> None:
        held = [layer.held() for layer in state.layers]
        lengths = [keys.shape[2] for keys, _ in held]
        reach = Reach(max(lengths), tokens, None, model.device)  # all that is held is seen, however long
        tails = [
            Tail(reach, pair, raw=isinstance(layer, MemoryLayer))
            for pair, layer in zip(held, state.layers, strict=True)
        ]
        super().__init__(decoder_of(model), output_head(model), state.local, [reach] * len(tails), tails)
        self._state = state

    def mix(self, tail: Tail, made: Projected, rows: Rows, scale: float) -> torch.Tensor:
        new = tail.keys, tail.values
        if rows.rotation is None or not flash_decoding.fits(made[0], rows.rotation, tail.core, new):
            return super().mix(tail, made, rows, scale)
        return flash_decoding.attend(*made, rows.rotation, rows.place, tail.core, new, scale, tail.raw)

    def finish(self) -> None:
        for tail, layer in zip(self.tails, self._state.layers, strict=True):
            raw = None if tail.raw is None else tail.raw[:, :, : self.count]
            layer.append(raw, *tail.new(self.count))
        self._state.local += self.count
