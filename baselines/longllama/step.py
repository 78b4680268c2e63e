"""LongLLaMA's static step: one token after the local cache and, in the memory layers, all of the memory."""

from __future__ import annotations

from baselines.longllama.memory import LongLlamaState, MemoryLayer
from baselines.longllama.modeling import LongLlamaForCausalLM
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep
from sharedllm.nn.base_config import head_dim
from sharedllm.nn.layers import Decoder, decoder_of, output_head


class LongLLaMAStep(DecoderStep[Decoder]):
    """tokens: no more than the local cache takes before it is flushed. Memory layers also keep keys without rotation,
    as memory stores them."""

    def __init__(self, model: LongLlamaForCausalLM, state: LongLlamaState, tokens: int) -> None:
        held = [layer.held() for layer in state.layers]
        lengths = [keys.shape[2] for keys, _ in held]
        by_length = {length: Reach(length, tokens, None, model.device) for length in set(lengths)}
        reaches = [by_length[length] for length in lengths]
        size = head_dim(model.config)
        tails = [
            Tail(reach, pair, head_dim=size, raw=isinstance(layer, MemoryLayer))
            for reach, pair, layer in zip(reaches, held, state.layers, strict=True)
        ]
        super().__init__(decoder_of(model), output_head(model), state.local, reaches, tails)
        self._state = state

    def finish(self) -> None:
        for tail, layer in zip(self.tails, self._state.layers, strict=True):
            raw = None if tail.raw is None else tail.raw[:, :, : self.count]
            layer.append(raw, *tail.new(self.count))
        self._state.local += self.count
