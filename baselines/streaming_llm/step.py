"""StreamingLLM's static step: one token after the sink cache as it is."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from baselines.streaming_llm.sink_cache import SinkCache
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep
from sharedllm.nn.layers import Decoder, decoder_of, output_head


class StreamingStep(DecoderStep[Decoder]):
    """Between two evictions a plain step. Where one token leaves for each that comes (`SinkCache.rolling`), the recent
    tokens are a sliding window, and for every token the sinks are rotated to stand right before it."""

    def __init__(self, model: PreTrainedModel, cache: SinkCache, tokens: int) -> None:
        position = cache.expect(tokens)
        sinks = cache.eviction.sinks if cache.rolling else 0
        held, pinned = cache.held[..., sinks:, :], cache.held[..., :sinks, :]
        length = held.shape[-2]
        reach = Reach(length, tokens, length + 1 if cache.rolling else None, model.device, sinks)
        layers = range(len(decoder_of(model).layers))
        tails = [Tail(reach, (held[0, i], held[1, i]), (pinned[0, i], pinned[1, i])) for i in layers]
        super().__init__(decoder_of(model), output_head(model), position, [reach for _ in layers], tails)
        self._cache, self._start = cache, position - length - sinks

    def run(self) -> torch.Tensor:
        if self._cache.rolling:
            for tail, keys in zip(self.tails, self._cache.sinks_at(self._start + self.number), strict=True):
                tail.keys[:, :, : keys.shape[2]] = keys
        return super().run()

    def finish(self) -> None:
        for index, tail in enumerate(self.tails):
            self._cache.update(*tail.new(self.count), index)
        self._cache.commit(self.count)
