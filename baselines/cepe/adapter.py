"""CEPE and CEPED as a method of the harness.

Split, as in CEPE's evaluation: the last tokens of the text stand in the decoder, what overflows goes to the encoder
in chunks of 256 tokens in order; the last one may be shorter and is encoded alone, so nothing is ever padded. The
decoder holds prefix, end of the context, query and answer within `window`. As the split depends on the length of
query and answer, the context is read when these are known; their length counts in steps of `room`, so that alike
queries share one read. 256 scored tokens after a context of T - 256 give CEPE's own protocol: T - window tokens in
the encoder, window in the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, Field
from transformers import PreTrainedConfig

from baselines.cepe.cost import CrossCost
from baselines.cepe.encoder import Encoder
from baselines.cepe.modeling import CEPEForCausalLM, EncodedContext, check_fields
from baselines.cepe.training import TrainedCEPE
from evals.errors import UnfitError, UserError
from evals.methods import flops
from evals.methods.base import MOST, Cost, Query, ReplayedSettings, Runtime, Session, common_fields
from evals.methods.decoding.buffer_session import BufferSession
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.prefill import read
from evals.methods.decoding.replays import ReplayingModel
from evals.methods.decoding.static_decoder import CacheStep, decode_mode
from evals.methods.presets import Preset
from evals.methods.weights import load_base, load_class, resolve
from sharedllm.nn.layers import decoder_of, output_head
from sharedllm.trained_adapter import TrainedRecord


class CEPESettings(ReplayedSettings):
    """What encoder and decoder read.

    cache_cross: `states` are the encoder's (59 MB at 28K tokens of the 7B model in bfloat16); a few query tokens attend
    to them directly, more project them to keys and values layer by layer. `kv` keeps keys and values of all layers
    (15 GB there), which saves every query the projection and costs every new token their traffic.
    """

    window: int = Field(4096, ge=2, le=MOST, description="tokens in the decoder")
    room: int = Field(256, ge=1, le=MOST, description="step to which query and answer are rounded up within it")
    chunk: int = Field(256, ge=1, le=MOST, description="tokens of an encoder chunk")
    cache_cross: Literal["states", "kv"] = Field(
        "states",
        description="what is kept of an encoded context: the encoder's states, or keys and values of all layers",
    )
    encode_block: int = Field(64, ge=1, le=MOST, description="chunks encoded at once")


class SplitSession(BufferSession[CEPEForCausalLM]):
    """A context read with one split: `overflow` ids in the encoder, `running` ids in the decoder.

    The running ids are read together with the first query, in one pass over weights and encoder states, and kept.
    """

    def __init__(self, method: CEPE, overflow: Sequence[int], running: Sequence[int]) -> None:
        super().__init__(method.model, kept=len(running))
        self._encoded = self._encode(method, overflow) if overflow else None
        self._unread = list(running)

    @property
    def state_bytes(self) -> int:
        return super().state_bytes + (0 if self._encoded is None else self._encoded.nbytes)

    def _encode(self, method: CEPE, ids: Sequence[int]) -> EncodedContext:
        encoded = method.reader(self._tensor(ids))
        return self._model.project(encoded) if method.settings.cache_cross == "kv" else encoded

    def _begin(self, query: Query) -> None:
        if self._unread and not len(query.ids):
            self._forward(self._tensor([]))

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self._unread:
            return self._decoded(ids)
        hidden = self._decoded(torch.cat([self._tensor(self._unread), ids], 1))
        before, self._unread = len(self._unread), []
        self.context_hidden = hidden[before - 1 : before].clone()
        return hidden[before:]

    def _decoded(self, ids: torch.Tensor) -> torch.Tensor:
        def cross(index: int, hidden: torch.Tensor) -> torch.Tensor:
            return self._model.cross(index, hidden, self._encoded)

        return read(self._model, ids, self._cache.get_seq_length(), self._cache, cross, context=self._encoded)

    def _rewind(self) -> None:
        if self._unread:  # what was read when it ended is incomplete
            self._cache = self._new_cache()
        super()._rewind()

    def _graph_step(self, tokens: int) -> CEPEStep:
        return CEPEStep(self._model, self._encoded, self._cache, tokens)


class CEPEStep(CacheStep):
    """Llama's step with the cross-attention to the encoded context."""

    def __init__(self, model: CEPEForCausalLM, encoded: EncodedContext | None, cache: BufferCache, tokens: int) -> None:
        super().__init__(decoder_of(model), output_head(model), model.config, cache, tokens)
        self._model, self._encoded = model, encoded

    def between(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.cross(index, hidden, self._encoded)


class CEPESession(DeferredSession[int]):
    """A context that is read when the split is known: `plan` is the number of tokens that go to the encoder."""

    def __init__(self, method: CEPE, prefix_ids: Sequence[int], context_ids: Sequence[int]) -> None:
        self._method = method
        self._prefix, self._context = list(prefix_ids), list(context_ids)

    def trace(self) -> dict[str, int]:
        overflow = self.plan or 0
        return {"encoder_tokens": overflow, "decoder_tokens": len(self._context) - overflow}

    def _plan(self, query: Query, generated: int, scored: int) -> int:
        tail = len(query.ids) + generated + scored
        return overflow_tokens(self._method.settings, len(self._prefix), len(self._context), tail)

    def _read(self, plan: int) -> Session:
        running = [*self._prefix, *self._context[plan:]]
        return SplitSession(self._method, self._context[:plan], running)


@dataclass(kw_only=True)
class CEPE(ReplayingModel):
    """A CEPE or CEPED checkpoint, which differ in their weights only, or what `sharedllm-train` made of a base."""

    settings_model: ClassVar[type[BaseModel] | None] = CEPESettings
    own_class: ClassVar[bool] = True

    model: CEPEForCausalLM
    settings: CEPESettings
    reader: Encoder

    @classmethod
    def inspect_adapter(cls, preset: Preset, folder: Path) -> TrainedRecord:
        record = TrainedCEPE.inspect(folder)
        positions = (preset.shape or {}).get("max_position_embeddings")
        if isinstance(positions, int):  # else only the base's own config says it
            check(CEPESettings.of(preset), positions, positions)
        return record

    @classmethod
    def check_checkpoint(cls, folder: Path) -> None:
        check_fields(PreTrainedConfig.get_config_dict(folder)[0])

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings, trained_chunk = CEPESettings.of(preset), None
        if preset.adapter is not None and not runtime.random_weights:
            # --checkpoint names what was trained; the base stays the preset's
            base, tokenizer = load_base(preset.weights, replace(runtime, checkpoint=None), preset.shape)
            trained = TrainedCEPE.build(base, {}, preset.adapter_folder(runtime.checkpoint))
            model, trained_chunk = trained.model, trained.options.encoder_chunk
        else:
            if not runtime.random_weights:
                cls.check_checkpoint(resolve(preset.weights, runtime))
            model, tokenizer = load_class(CEPEForCausalLM, preset.weights, runtime, preset.shape)
        check(settings, model.config.max_position_embeddings, model.encoder.config.max_position_embeddings)
        reader = Encoder(model, settings.chunk, settings.encode_block, graphs=not settings.eager_reads)
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness={
                **settings.model_dump(exclude={"eager_reads"}),
                **({} if trained_chunk is None else {"trained chunk": trained_chunk}),
                "cross_kernel": "sdpa",
                "read": reader.mode,
            },
            trained=not runtime.random_weights,
            decode=decode_mode(model),
        )
        return cls(**fields, model=model, settings=settings, reader=reader)

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> CEPESession:
        return CEPESession(self, prefix_ids, context_ids)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """One read without prefix, for an answer of one token; a longer one may move the split by a step of `room`."""
        config, encoder = self.model.config, self.model.encoder.config
        overflow = overflow_tokens(self.settings, 0, context_tokens, query_tokens + 1)
        running = context_tokens - overflow
        cross = CrossCost(self.model, overflow, self.settings.cache_cross == "kv")
        full, rest = divmod(overflow, self.settings.chunk)
        encode = overflow * flops.linear_flops(encoder) + flops.attention_flops(
            encoder, full * self.settings.chunk**2 + rest**2
        )
        tokens = running + query_tokens
        token = flops.linear_flops(config)
        entry = flops.kv_bytes(config, self.model.dtype)
        encoder_bytes = sum(p.nbytes for p in self.model.encoder.parameters())
        return Cost(
            prefill_flops=encode
            + cross.once
            + tokens * token
            + flops.attention_flops(config, flops.causal_pairs(tokens))
            + cross.forward(tokens)
            + flops.head_flops(config),
            decode_flops=token
            + flops.attention_flops(config, tokens + 1)
            + cross.forward(1)
            + flops.head_flops(config),
            weight_bytes=flops.weight_bytes(self.model),
            state_bytes=running * entry + cross.kept_bytes,
            decode_bytes=flops.decode_weight_bytes(self.model) - encoder_bytes + tokens * entry + cross.read_bytes,
        )


def overflow_tokens(settings: CEPESettings, prefix: int, context: int, tail: int) -> int:
    """Context tokens that go to the encoder, where query and answer take `tail` tokens, rounded up as far as that
    leaves one context token in the decoder. Raises UserError where none is left."""
    free = settings.window - prefix - tail
    if free < 1:
        raise UserError(
            f"Prefix, query and answer take {prefix + tail} of the {settings.window} tokens of CEPE's decoder: "
            "nothing of the context fits; use a shorter query."
        )
    return max(context - max(free - -tail % settings.room, 1), 0)


def check(settings: CEPESettings, decoder: int, encoder: int) -> None:
    """Raises UnfitError where a window or a chunk exceeds the positions of its model."""
    for name, positions in {"window": decoder, "chunk": encoder}.items():
        value = getattr(settings, name)
        if value > positions:
            raise UnfitError(
                f"CEPE's setting {name} is {value}, but its model has {positions} positions: lower {name}."
            )
