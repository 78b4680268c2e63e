"""Dense attention of a stock causal LM: over all of the context (`full`) or what its window holds (`truncated`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PretrainedConfig, PreTrainedModel

from evals.errors import UserError
from evals.methods import flops
from evals.methods.base import Cost, LongContextModel, Query, Request, Runtime, Session
from evals.methods.decoding.batching import KeysValues, generate_together
from evals.methods.decoding.cuda_graph import LONGEST
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.decoding.kv_cache import ROOM, BufferCache
from evals.methods.decoding.prefill import read
from evals.methods.decoding.session import CachedSession
from evals.methods.decoding.static_decoder import CacheStep, decoding, has_fixed_step
from evals.methods.presets import Preset
from evals.methods.truncation import Side, kept_ends
from evals.methods.weights import load_base
from evals.settings import validate

RESCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Config fields of bases whose logits are not simply the output head of the final hidden state."""


class DenseSettings(BaseModel):
    """block: tokens of the context in one forward; None reads it at once, while smaller blocks need less memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: int | None = Field(None, ge=1)


class TruncatedSettings(DenseSettings):
    """side: which part of the context goes (`kept_ends`). window: tokens that context, query and answer share;
    None is what the base was trained for."""

    side: Side = "middle"
    window: int | None = Field(None, ge=2)


class DenseSession(CachedSession):
    """Keys and values of every token; a query is appended and then cut off again."""

    def __init__(self, model: PreTrainedModel, ids: Sequence[int], block: int | None = None) -> None:
        self.device = model.device
        self._model = model
        self._cache = BufferCache(model.config.num_hidden_layers, capacity=len(ids) + ROOM)
        self._context = len(ids)
        self._fixed = has_fixed_step(model)
        if ids:
            for piece in self._tensor(ids).split(block or len(ids), dim=1):
                self.context_hidden = self._forward(piece)[-1:].clone()

    @property
    def state_bytes(self) -> int:
        return self._cache.nbytes

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        return read(self._model, ids, self._cache.get_seq_length(), self._cache)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.get_output_embeddings()(hidden)

    def _rewind(self) -> None:
        self._cache.truncate(self._context)

    def _fixed_room(self) -> int:
        return LONGEST if self._fixed else 0

    def _fixed_step(self, tokens: int) -> CacheStep:
        model: Any = self._model
        return CacheStep(model.base_model, model.get_output_embeddings(), model.config, self._cache, tokens)

    @property
    def tokens(self) -> int:
        """Tokens of the context."""
        return self._context

    @contextmanager
    def appended(self, query: Query) -> Iterator[tuple[torch.Tensor, list[KeysValues]]]:
        """The state behind a query: final hidden state (1, hidden) and, a layer each, keys and values."""
        try:
            hidden = self._read(query)
            yield hidden, self._cache.keys_values()
        finally:
            self._rewind()


@dataclass(kw_only=True)
class FullAttention(LongContextModel):
    """Every token sees all before it. Beyond `max_context` it still runs; what it says there is untrained."""

    settings_model: ClassVar[type[DenseSettings]] = DenseSettings

    model: PreTrainedModel
    settings: DenseSettings

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = validate(cls.settings_model, preset.settings, preset.name)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        window = check_base(model.config)
        how = {"kernel": runtime.attn, "decode": decoding(model), "dtype": runtime.dtype, "trained": False}
        return cls(
            name=preset.name,
            tokenizer=tokenizer,
            device=model.device,
            dtype=model.dtype,
            max_context=preset.max_context or cls.longest(window),
            fairness={"window": window, **settings.model_dump(exclude_none=True), **how},
            model=model,
            settings=settings,
        )

    @staticmethod
    def longest(window: int) -> int | None:
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


class TruncatedSession(DeferredSession[int]):
    """A context of which as much is read as a query and its answer leave room for: `plan` is the number of tokens.
    It depends on their length alone, in coarse steps: alike queries share one read."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefix: Sequence[int],
        context: Sequence[int],
        window: int,
        settings: TruncatedSettings,
    ) -> None:
        self._model = model
        self._prefix, self._context = list(prefix), list(context)
        self._window = window
        self._settings = settings
        self._kept = len(self._context)

    def trace(self) -> dict[str, Any]:
        return {"kept_tokens": self._kept, "cut_tokens": len(self._context) - self._kept}

    def _plan(self, query: int, generated: int, scored: int) -> int:
        return context_room(self._window, len(self._prefix), query + generated + scored)

    def _read(self, plan: int) -> Session:
        head, end = kept_ends(len(self._context), plan, self._settings.side)
        self._kept = head + end
        kept = self._context[:head] + self._context[len(self._context) - end :]
        return DenseSession(self._model, [*self._prefix, *kept], self._settings.block)


@dataclass(kw_only=True)
class Truncated(FullAttention):
    """Dense attention within the base's window: the context is cut to fit. Any length is accepted."""

    settings_model: ClassVar[type[DenseSettings]] = TruncatedSettings

    settings: TruncatedSettings

    @staticmethod
    def longest(window: int) -> int | None:
        return None

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        window = self.fairness["window"]
        return TruncatedSession(self.model, prefix_ids, context_ids, window, self.settings)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """As of dense attention over what stays; the answer is left out of the account, it is short."""
        room = context_room(self.fairness["window"], 0, query_tokens)
        return dense_cost(self.model, min(context_tokens, room), query_tokens)


def context_room(window: int, prefix: int, tail: int) -> int:
    """Context tokens that a window holds beside a prefix and a `tail` (query and answer), which is rounded up to
    steps of 256 tokens (a sixteenth of a small window). Raises UserError where not one token is left."""
    step = max(1, min(256, window // 16))
    room = window - prefix - tail
    if room < 1:
        raise UserError(
            f"Prefix, query and answer take {prefix + tail} of the {window} tokens of the window: "
            "nothing of the context fits; use a shorter query or a longer window."
        )
    return max(room - -tail % step, 1)


def check_base(config: PretrainedConfig) -> int:
    """The window of a base. Raises UserError for one whose logits this code would get wrong."""
    scaled = [name for name in RESCALED_LOGITS if getattr(config, name, None) not in (None, 1)]
    if scaled:
        raise UserError(f"A base of type '{config.model_type}' rescales its logits ({scaled[0]}): choose another.")
    return config.max_position_embeddings


def dense_cost(model: PreTrainedModel, context_tokens: int, query_tokens: int) -> Cost:
    """Causal attention over context + query, and of the token after them."""
    config = model.config
    tokens = context_tokens + query_tokens
    state = tokens * flops.kv_bytes(config, model.dtype)
    token = flops.linear_flops(config) + flops.head_flops(config)
    prefill = (
        tokens * flops.linear_flops(config)
        + flops.attention_flops(config, flops.causal_pairs(tokens))
        + flops.head_flops(config)
    )
    return Cost(
        prefill_flops=prefill,
        decode_flops=token + flops.attention_flops(config, tokens + 1),
        weight_bytes=flops.weight_bytes(model),
        state_bytes=state,
        decode_bytes=flops.decode_weight_bytes(model) + state,
    )
