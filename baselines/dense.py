"""Dense attention of a stock causal LM over all of the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from pydantic import Field
from transformers import PreTrainedModel

from evals.methods import flops
from evals.methods.base import (
    MOST,
    Cost,
    LongContextModel,
    MethodSettings,
    Query,
    Request,
    Runtime,
    Session,
    common_fields,
)
from evals.methods.bases import check_reading, sliding_layers
from evals.methods.decoding.batching import generate_together
from evals.methods.decoding.buffer_session import BufferSession
from evals.methods.decoding.static_decoder import decode_mode
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from sharedllm.nn.base_config import positions
from sharedllm.nn.layers import KeysValues


class DenseSettings(MethodSettings):
    """How the context is read."""

    block: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="tokens of the context in one forward; null: all at once, while smaller blocks need less memory",
    )


class DenseSession(BufferSession[PreTrainedModel]):
    """Keys and values of every token; a query is appended and then cut off again."""

    def __init__(self, model: PreTrainedModel, ids: Sequence[int], block: int | None = None) -> None:
        super().__init__(model, kept=len(ids))
        if ids:
            for piece in torch.split(self._tensor(ids), block or len(ids), dim=1):
                self.context_hidden = self._forward(piece)[-1:].clone()

    @property
    def context(self) -> list[KeysValues]:
        """Keys and values of the context, per layer; none where nothing was read."""
        return self._cache.keys_values()

    @contextmanager
    def appended(self, query: Query) -> Iterator[tuple[torch.Tensor, list[KeysValues]]]:
        """The state after a query: final hidden state (1, hidden) and, per layer, keys and values."""
        try:
            hidden = self._read(query)
            yield hidden, self._cache.keys_values()
        finally:
            self._rewind()


@dataclass(kw_only=True)
class FullAttention(LongContextModel):
    """Every token sees all before it. Beyond `max_context` it still runs; what it says there is untrained."""

    settings_model: ClassVar[type[DenseSettings]] = DenseSettings
    spreads: ClassVar[bool] = True

    model: PreTrainedModel
    settings: DenseSettings

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = cls.settings_model.of(preset)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        check_reading(model)
        window = positions(model.config)
        fairness = {"window": window, **settings.model_dump(exclude_none=True), **sliding_layers(model.config)}
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness=fairness,
            trained=False,
            decode=decode_mode(model),
            longest=cls.longest(window),
        )
        return cls(**fields, model=model, settings=settings)

    @staticmethod
    def longest(window: int | None) -> int | None:
        """Tokens that the method is made for, given the base's window."""
        return window

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        return DenseSession(self.model, [*prefix_ids, *context_ids], self.settings.block)

    def generate_batch(self, requests: Sequence[Request]) -> list[list[int]]:
        if len(requests) > 1 and all(isinstance(request.session, DenseSession) for request in requests):
            return generate_together(self.model, requests)
        return super().generate_batch(requests)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        return dense_cost(self.model, context_tokens, query_tokens)


def dense_cost(model: PreTrainedModel, context_tokens: int, query_tokens: int) -> Cost:
    """Causal attention over context + query, and of the token after them."""
    config = model.config
    tokens = context_tokens + query_tokens
    state = tokens * flops.kv_bytes(config, model.dtype)
    linear = flops.decoder_flops(model)
    prefill = tokens * linear + flops.attention_flops(config, flops.causal_pairs(tokens)) + flops.head_flops(config)
    return Cost(
        prefill_flops=prefill,
        decode_flops=linear + flops.head_flops(config) + flops.attention_flops(config, tokens + 1),
        weight_bytes=flops.weight_bytes(model),
        state_bytes=state,
        decode_bytes=flops.decode_weight_bytes(model) + state,
    )
