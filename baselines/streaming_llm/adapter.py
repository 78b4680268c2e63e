"""StreamingLLM: attention sinks and a window of recent tokens (Xiao et al., "Efficient Streaming Language Models
with Attention Sinks", ICLR 2024). No training and no memory beyond the window: what was evicted is gone.

Two regimes, which are not equivalent and must be named beside a number:
`token`: one token per forward, evict after it, as in the authors' perplexity loop. A token sees the whole cache.
`chunked`: sinks + recent tokens at once, then forwards of `chunk` tokens, evict after each, as CEPE's evaluation
drives it (Yen et al. 2024). A token also sees all earlier tokens of its chunk, up to sinks + recent + chunk keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PretrainedConfig, PreTrainedModel

from baselines.streaming_llm.sink_cache import Eviction, SinkCache
from evals.errors import UserError
from evals.methods import flops
from evals.methods.base import Cost, LongContextModel, Runtime
from evals.methods.decoding.prefill import read
from evals.methods.decoding.session import CachedSession
from evals.methods.decoding.static_decoder import (
    FAMILIES,
    LENGTH_DEPENDENT,
    DecoderStep,
    Reach,
    Tail,
    decoding,
    has_fixed_step,
)
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from evals.settings import validate
from sharedllm.nn.masks import sliding_window


class StreamingSettings(BaseModel):
    """sinks + recent tokens stay in the cache; `chunk` is the size of a forward in the chunked regime."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sinks: int = Field(4, ge=0)
    recent: int = Field(2044, ge=1)
    regime: Literal["chunked", "token"] = "chunked"
    chunk: int = Field(2048, ge=1)

    @property
    def eviction(self) -> Eviction:
        return Eviction(self.sinks, self.recent, self.chunk if self.regime == "chunked" else 1)


class StreamingSession(CachedSession):
    """A stream that has been read; the query and the answer go on in it and are then taken back."""

    def __init__(self, model: PreTrainedModel, eviction: Eviction, ids: Sequence[int]) -> None:
        self.device = model.device
        self._model = model
        inv_freq = model.base_model.get_buffer("rotary_emb.inv_freq")
        self._cache = SinkCache(eviction, model.config, model.dtype, inv_freq)
        self._fixed = has_fixed_step(model) and _sees_all(model.config, eviction)
        if ids:
            for hidden in self._forwards(self._tensor(ids)):
                self.context_hidden = hidden[-1:]
        self._context = self._cache.snapshot()

    @property
    def state_bytes(self) -> int:
        return self._cache.nbytes

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(self._forwards(ids)))

    def _forwards(self, ids: torch.Tensor) -> Iterator[torch.Tensor]:
        """Read `ids` (1, q) in as many forwards as evictions cut it into; yields hidden states (piece, hidden)."""
        at = 0
        while at < ids.shape[1]:
            piece = ids[:, at : at + self._cache.eviction.room(self._cache.seen)]
            hidden = read(self._model, piece, self._cache.expect(piece.shape[1]), self._cache)
            self._cache.commit(piece.shape[1])
            at += piece.shape[1]
            yield hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.get_output_embeddings()(hidden)

    def _rewind(self) -> None:
        self._cache.restore(self._context)

    def _fixed_room(self) -> int:
        return self._cache.steady_room if self._fixed else 0

    def _fixed_step(self, tokens: int) -> StreamingStep:
        return StreamingStep(self._model, self._cache, tokens)


class StreamingStep(DecoderStep):
    """Between two evictions a plain step. Where one token leaves for each that comes (`SinkCache.rolling`), the recent
    tokens are a sliding window, and the sinks are turned for every token to stand right before it."""

    def __init__(self, model: Any, cache: SinkCache, tokens: int) -> None:
        position = cache.expect(tokens)
        sinks = cache.eviction.sinks if cache.rolling else 0
        held, pinned = cache.held[..., sinks:, :], cache.held[..., :sinks, :]
        length = held.shape[-2]
        reach = Reach(length, tokens, length + 1 if cache.rolling else None, model.device, sinks)
        layers = range(model.config.num_hidden_layers)
        tails = [Tail(reach, tuple(held[:, i]), tuple(pinned[:, i])) for i in layers]
        super().__init__(model.base_model, model.get_output_embeddings(), position, [reach for _ in layers], tails)
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


@dataclass(kw_only=True)
class StreamingLLM(LongContextModel):
    """Any Llama, Mistral or Qwen base, driven over a SinkCache."""

    settings_model: ClassVar[type[BaseModel]] = StreamingSettings

    model: PreTrainedModel
    eviction: Eviction

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> StreamingLLM:
        settings = validate(StreamingSettings, preset.settings, preset.name)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        check_base(model.config, settings.eviction)
        return cls(
            name=preset.name,
            tokenizer=tokenizer,
            device=model.device,
            dtype=model.dtype,
            max_context=preset.max_context,
            fairness={
                "window": settings.eviction.capacity,
                **settings.model_dump(),
                "kernel": runtime.attn,
                "decode": decoding(model) if _sees_all(model.config, settings.eviction) else "eager",
                "dtype": runtime.dtype,
                "trained": False,
            },
            model=model,
            eviction=settings.eviction,
        )

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> StreamingSession:
        return StreamingSession(self.model, self.eviction, [*prefix_ids, *context_ids])

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Every token sees the cache and, in the chunked regime, what came before it in its chunk."""
        config, seen = self.model.config, context_tokens + query_tokens
        kv = flops.kv_bytes(config, self.dtype)
        held = self.eviction.held(seen)
        state = held * kv + (self.eviction.sinks * kv // 2 if seen > held else 0)  # keys of the sinks twice
        head = flops.head_flops(config)
        pairs = self.eviction.pairs(seen)
        return Cost(
            prefill_flops=seen * flops.linear_flops(config) + flops.attention_flops(config, pairs) + head,
            decode_flops=flops.linear_flops(config) + flops.attention_flops(config, held + 1) + head,
            weight_bytes=flops.weight_bytes(self.model),
            state_bytes=state,
            decode_bytes=flops.decode_weight_bytes(self.model) + state,
        )


def check_base(config: PretrainedConfig, eviction: Eviction) -> None:
    """Raises UserError for a base whose keys cannot be turned, or whose positions the forwards would leave."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"StreamingLLM turns cached keys as {', '.join(FAMILIES)} models do; "
            f"a base of type '{config.model_type}' needs another cache: choose one of those."
        )
    rope = config.rope_parameters["rope_type"]
    if rope in LENGTH_DEPENDENT:
        raise UserError(f"StreamingLLM needs fixed rotary frequencies: choose a base without rope type '{rope}'.")
    reach, window = eviction.capacity + eviction.step, config.max_position_embeddings
    if reach > window:
        raise UserError(
            f"sinks + recent + chunk is {reach}, more than the {window} positions of the base: "
            "lower recent or chunk (or choose regime token)."
        )


def _sees_all(config: PretrainedConfig, eviction: Eviction) -> bool:
    """Whether no layer of the base has a window shorter than what the cache may hold."""
    windows = [sliding_window(config, index) for index in range(config.num_hidden_layers)]
    return all(window is None or window >= eviction.capacity + eviction.step for window in windows)
