"""StreamingLLM: attention sinks and a window of recent tokens (Xiao et al., "Efficient Streaming Language Models
with Attention Sinks", ICLR 2024). No training and no memory beyond the window: what was evicted is gone.

Two regimes give different numbers, so results name theirs:
`token`: one token per forward, evict after it, as in the authors' perplexity loop. A token sees the whole cache.
`chunked`: sinks + recent tokens at once, then forwards of `chunk` tokens, evict after each, as CEPE's evaluation
drives it (Yen et al. 2024). A token also sees all earlier tokens of its chunk, up to sinks + recent + chunk keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, Field
from transformers import PreTrainedConfig, PreTrainedModel

from baselines.streaming_llm.sink_cache import Eviction, SinkCache
from baselines.streaming_llm.spread_cache import sink_cache
from baselines.streaming_llm.step import StreamingStep
from evals.errors import UnfitError
from evals.methods import flops
from evals.methods.base import MOST, Cost, Query, ReplayedSettings, Runtime, Stop, common_fields
from evals.methods.bases import check_steady
from evals.methods.decoding.layer_reader import LayerReader
from evals.methods.decoding.prefill import read
from evals.methods.decoding.replays import ReplayingModel
from evals.methods.decoding.session import GraphSession
from evals.methods.decoding.static_decoder import decode_mode, supports_static_decoding
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from sharedllm.nn.base_config import text_config, windows
from sharedllm.nn.layers import decoder_of, layer_device
from sharedllm.nn.recipes import RECIPES
from sharedllm.nn.rotation import frequencies


class StreamingSettings(ReplayedSettings):
    """What stays in the cache, and how much is read at once."""

    added_later = ("first", "eager_reads")

    sinks: int = Field(4, ge=0, le=MOST, description="first tokens, which stay in the cache")
    recent: int = Field(2044, ge=1, le=MOST, description="last tokens, which stay with them")
    regime: Literal["chunked", "token"] = Field(
        "chunked", description="how many tokens are read before others leave the cache: a chunk, or one"
    )
    chunk: int = Field(2048, ge=1, le=MOST, description="tokens of a forward in the chunked regime")
    first: int | None = Field(
        None, ge=1, le=MOST, description="tokens of the first forward, where it differs from sinks + recent"
    )

    @property
    def eviction(self) -> Eviction:
        """When tokens leave the cache."""
        return Eviction(self.sinks, self.recent, self.chunk if self.regime == "chunked" else 1, self.first)


class StreamingSession(GraphSession[PreTrainedModel]):
    """A stream that has been read; the query and the answer continue it and are then rewound."""

    def __init__(
        self, model: PreTrainedModel, eviction: Eviction, ids: Sequence[int], reader: LayerReader | None = None
    ) -> None:
        """reader: reads with the model; where it is left out every read is launched."""
        super().__init__(model)
        self._reader = reader or partial(read, model)
        decoder = decoder_of(model)
        places = [layer_device(layer) for layer in decoder.layers]
        self._cache = sink_cache(eviction, model.config, model.dtype, frequencies(decoder), places)
        self._static = supports_static_decoding(model) and _sees_all(model.config, eviction)
        self._to_context = self._cache.saved()
        self.extend(ids)

    @torch.inference_mode()
    def extend(self, ids: Sequence[int]) -> None:
        """Read more of the stream, which then belongs to the context."""
        if len(ids):
            for hidden in self._forwards(self._tensor(ids)):
                self.context_hidden = hidden[-1:]
        self._to_context = self._cache.saved()

    def say(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        """One turn of a conversation: read `ids`, answer greedily, and keep both in the sink cache for the next turn,
        as the authors' streaming demo does. Returns the new ids; a stop id is not among them, and not kept either."""
        self.extend(ids)
        answer = self.generate(Query(), max_new_tokens, stop, on_token)
        self.extend(answer)
        return answer

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
            hidden = self._reader(piece, self._cache.expect(piece.shape[1]), self._cache)
            self._cache.commit(piece.shape[1])
            at += piece.shape[1]
            yield hidden

    def _rewind(self) -> None:
        self._to_context()

    def _graph_room(self) -> int:
        return self._cache.steady_room if self._static and isinstance(self._cache, SinkCache) else 0

    def _graph_step(self, tokens: int) -> StreamingStep:
        assert isinstance(self._cache, SinkCache)
        return StreamingStep(self._model, self._cache, tokens)


@dataclass(kw_only=True)
class StreamingLLM(ReplayingModel):
    """Any base whose layers have a recipe, driven over a SinkCache."""

    settings_model: ClassVar[type[BaseModel]] = StreamingSettings
    spreads: ClassVar[bool] = True

    model: PreTrainedModel
    eviction: Eviction
    reader: LayerReader

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = StreamingSettings.of(preset)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        check_base(model.config, settings.eviction)
        eviction = settings.eviction
        longest = max(eviction.opening, eviction.step)
        reader = LayerReader(model, longest, graphs=not settings.eager_reads)
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness={
                "window": eviction.capacity,
                **settings.model_dump(exclude={"eager_reads"}),
                "read": reader.mode,
            },
            trained=False,
            decode=decode_mode(model) if _sees_all(model.config, eviction) else "eager",
        )
        return cls(**fields, model=model, eviction=eviction, reader=reader)

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> StreamingSession:
        return StreamingSession(self.model, self.eviction, [*prefix_ids, *context_ids], self.reader)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Every token sees the cache and, in the chunked regime, what came before it in its chunk."""
        config, seen = self.model.config, context_tokens + query_tokens
        kv = flops.kv_bytes(config, self.dtype)
        held = self.eviction.held(seen)
        state = held * kv + (self.eviction.sinks * kv // 2 if seen > held else 0)  # keys of the sinks twice
        head, linear = flops.head_flops(config), flops.decoder_flops(self.model)
        pairs = self.eviction.pairs(seen)
        return Cost(
            prefill_flops=seen * linear + flops.attention_flops(config, pairs) + head,
            decode_flops=linear + flops.attention_flops(config, held + 1) + head,
            weight_bytes=flops.weight_bytes(self.model),
            state_bytes=state,
            decode_bytes=flops.decode_weight_bytes(self.model) + state,
        )


def check_base(config: PreTrainedConfig, eviction: Eviction) -> None:
    """Raises UserError for a base whose keys cannot be rotated, or whose positions the forwards would leave."""
    if text_config(config).model_type not in RECIPES:
        raise UnfitError(
            f"StreamingLLM rotates cached keys as {', '.join(RECIPES)} models do; "
            f"a base of type '{config.model_type}' needs another cache: choose one of those."
        )
    check_steady(config, "StreamingLLM")
    window = text_config(config).max_position_embeddings
    if eviction.opening > window:
        raise UnfitError(f"first is {eviction.opening}, more than the {window} positions of the base: lower it.")
    if eviction.reach > window:
        raise UnfitError(
            f"sinks + recent + chunk is {eviction.reach}, more than the {window} positions of the base: "
            "lower recent or chunk (or choose regime token)."
        )


def _sees_all(config: PreTrainedConfig, eviction: Eviction) -> bool:
    """Whether no layer of the base has a window shorter than what the cache may hold."""
    return all(window is None or window >= eviction.reach for window in windows(config))
