"""LongLLaMA as a method of the harness: prefix and context are read as the released code reads a prompt, then query
and answer continue the local cache, which moves into memory when it is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

import torch
from pydantic import BaseModel, Field
from transformers import PreTrainedConfig

from baselines.longllama.heads import pad_heads
from baselines.longllama.modeling import LongLlamaConfig, LongLlamaForCausalLM
from baselines.longllama.reader import Reader
from baselines.longllama.step import LongLLaMAStep
from baselines.longllama.training import LongLLaMAOptions, TrainedLongLLaMA
from evals.errors import UnfitError, UserError
from evals.methods import flops
from evals.methods.base import MOST, Cost, Query, ReplayedSettings, Runtime, common_fields
from evals.methods.decoding.replays import ReplayingModel
from evals.methods.decoding.session import GraphSession
from evals.methods.decoding.static_decoder import decode_mode, supports_static_decoding
from evals.methods.presets import Preset
from evals.methods.weights import load_base, load_class, resolve
from sharedllm.nn.base_config import head_dim, key_value_heads
from sharedllm.trained_adapter import TrainedRecord

Positive = Annotated[int, Field(ge=1, le=MOST)]


class LongLLaMASettings(ReplayedSettings):
    """Local cache and memory. A length or dtype that is null is the checkpoint's."""

    last_context_length: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="tokens at the end of the context that stay in the local cache; what is left of the window is for "
        "query and answer",
    )
    mem_dtype: str | None = Field(
        None, pattern="^(float32|bfloat16|float16)$", description="dtype of the keys and values in memory"
    )
    mem_attention_grouping: tuple[Positive, Positive] | None = Field(
        None,
        description="heads and queries that attend at a time, where a kernel that holds scores needs too much memory",
    )


class LongLLaMASession(GraphSession[LongLlamaForCausalLM]):
    """A prompt that has been read: memory, and the local cache of its last tokens.

    These last tokens are read together with the first query, in one pass over the weights, and kept.
    """

    def __init__(self, model: LongLlamaForCausalLM, reader: Reader, ids: Sequence[int]) -> None:
        super().__init__(model)
        self._reader = reader
        self._static = supports_static_decoding(model)
        self._state = model.new_state(reserve=len(ids) + model.window)
        before = max(len(ids) - model.config.last_context_length, 0)
        reader.remember(self._tensor(ids[:before]), self._state)
        self._unread = list(ids[before:])
        self._context = self._state.snapshot()

    @property
    def state_bytes(self) -> int:
        self._finish()
        return self._state.nbytes

    def _begin(self, query: Query) -> None:
        if not len(query.ids):
            self._finish()

    @torch.inference_mode()
    def _finish(self) -> None:
        """Read what is left of the prompt, alone."""
        if self._unread:
            self._forward(self._tensor([]))

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self._unread:
            return self._reader.append(ids, self._state)
        both, count = torch.cat([self._tensor(self._unread), ids], 1), len(self._unread)
        hidden = self._reader.append(both[:, : self._model.window], self._state)
        self._unread, self._context = [], self._state.snapshot(count)  # before the local cache may overflow
        self.context_hidden = hidden[count - 1 : count].clone()
        more = both[:, self._model.window :]
        parts = [hidden[count:]] + ([self._reader.append(more, self._state)] if more.numel() else [])
        return torch.cat(parts)

    def _rewind(self) -> None:
        self._state.restore(self._context)

    def _graph_room(self) -> int:
        return self._model.window - self._state.local if self._static else 0

    def _graph_step(self, tokens: int) -> LongLLaMAStep:
        return LongLLaMAStep(self._model, self._state, tokens)

    def trace(self) -> dict[str, int]:
        self._finish()
        return {"local_tokens": self._state.local, "memory_tokens": self._state.stored}


@dataclass(kw_only=True)
class LongLLaMA(ReplayingModel):
    """A LongLLaMA checkpoint (3B, 3B v1.1, Code 7B), what `sharedllm-train` made of a base, or random weights."""

    settings_model: ClassVar[type[BaseModel] | None] = LongLLaMASettings
    own_class: ClassVar[bool] = True

    model: LongLlamaForCausalLM
    reader: Reader
    padding_bytes: int
    """Of the weights, as `pad_heads` says."""

    @classmethod
    def inspect_adapter(cls, preset: Preset, folder: Path) -> TrainedRecord:
        record = TrainedLongLLaMA.inspect(folder)
        last = LongLLaMASettings.of(preset).last_context_length
        check_local(preset.name, last, LongLLaMAOptions.model_validate(record.options).window)
        return record

    @classmethod
    def check_checkpoint(cls, folder: Path) -> None:
        """LongLLaMA's class would read another model with sizes of its own."""
        kind = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if kind != LongLlamaConfig.model_type:
            raise UserError(
                f"The model in {folder} is of type '{kind}', not a LongLLaMA checkpoint: name one of those."
            )

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = LongLLaMASettings.of(preset)
        if runtime.attn != "sdpa":
            raise UnfitError(f"LongLLaMA's memory attention runs on sdpa, not on {runtime.attn}: use --attn sdpa.")
        if preset.adapter is not None and not runtime.random_weights:
            # --checkpoint names what was trained; the base stays the preset's
            base, tokenizer = load_base(preset.weights, replace(runtime, checkpoint=None), preset.shape)
            model = TrainedLongLLaMA.build(base, {}, preset.adapter_folder(runtime.checkpoint)).model
        else:
            if not runtime.random_weights:
                cls.check_checkpoint(resolve(preset.weights, runtime))
            model, tokenizer = load_class(LongLlamaForCausalLM, preset.weights, runtime, preset.shape)
        padding = pad_heads(model.decoder)
        config = model.config
        config.update(settings.model_dump(exclude_none=True, exclude={"eager_reads"}))
        check_local(preset.name, config.last_context_length, model.window)
        reader = Reader(model, graphs=not settings.eager_reads)
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness={
                "window": model.window,
                "last_context_length": config.last_context_length,
                "mem_layers": list(config.mem_layers),
                "mem_dtype": config.mem_dtype,
                "mem_attention_grouping": config.mem_attention_grouping and list(config.mem_attention_grouping),
                "read": reader.mode,
            },
            trained=not runtime.random_weights,
            decode=decode_mode(model),
        )
        return cls(**fields, model=model, reader=reader, padding_bytes=padding)

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> LongLLaMASession:
        return LongLLaMASession(self.model, self.reader, [*prefix_ids, *context_ids])

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """See `LongContextModel.cost`; head sizes count in attention as they lie in the caches, where they are padded,
        and in the weights as the checkpoint has them."""
        config, count = self.model.config, Count(self.model)
        total = count.read(context_tokens)
        state_bytes = count.state_bytes()
        total += count.append(query_tokens)
        return Cost(
            prefill_flops=total + flops.head_flops(config),
            decode_flops=count.append(1) + flops.head_flops(config),
            weight_bytes=flops.weight_bytes(self.model) - self.padding_bytes,
            state_bytes=state_bytes,
            decode_bytes=flops.decode_weight_bytes(self.model) - self.padding_bytes + count.attended_bytes(),
        )


def check_local(name: str, last_context_length: int | None, window: int) -> None:
    """Raises UnfitError where more of the context is to stay in the local cache than it holds."""
    if last_context_length is not None and last_context_length > window:
        raise UnfitError(
            f"The setting last_context_length of {name} is {last_context_length}, more than its window of {window} "
            "tokens: lower it."
        )


class Count:
    """Operations and bytes of a LongLlamaState that is filled like the real one, by formula."""

    def __init__(self, model: LongLlamaForCausalLM) -> None:
        self.config, self.window = model.config, model.window
        self.mem = sorted(model.config.mem_layers)
        self.plain = model.config.num_hidden_layers - len(self.mem)
        size = model.decoder.layers[0].self_attn.head_dim  # as it is computed
        self.heads_width = model.config.num_attention_heads * size
        self.entry = key_value_heads(model.config) * size * model.dtype.itemsize
        self.local = self.stored = 0

    def read(self, tokens: int) -> float:
        """A prompt of which only the last hidden state is wanted."""
        total, left = 0.0, tokens
        while left > self.config.last_context_length:
            piece = min(self.window, left - self.config.last_context_length)
            total += self._remember(piece) if self.mem else 0.0
            self._flush(piece)
            left -= piece
        return total + self.append(left)

    def append(self, tokens: int) -> float:
        total = 0.0
        while tokens:
            if self.local >= self.window:
                self._flush(self.local)
            piece = min(tokens, self.window - self.local)
            total += piece * flops.linear_flops(self.config)
            total += self.plain * self._attention(piece) + len(self.mem) * self._attention(piece, self.stored)
            self.local += piece
            tokens -= piece
        return total

    def state_bytes(self) -> int:
        """Memory layers hold local keys with and without rotation, and a copy of keys and values in the buffer."""
        return self.entry * (2 * self.plain * self.local + len(self.mem) * (2 * self.stored + 5 * self.local))

    def attended_bytes(self) -> int:
        return self.entry * 2 * (self.plain * self.local + len(self.mem) * (self.stored + self.local))

    def _remember(self, tokens: int) -> float:
        """A window that is read for memory alone, up to the keys and values of the last memory layer."""
        last, config = self.mem[-1], self.config
        linear = last * flops.layer_flops(config) + 4.0 * config.hidden_size * key_value_heads(config) * head_dim(
            config
        )
        below = len(self.mem) - 1
        attention = (last - below) * self._attention(tokens) + below * self._attention(tokens, self.stored)
        return float(tokens * linear + attention)

    def _attention(self, tokens: int, memory: int = 0) -> float:
        return 4.0 * self.heads_width * flops.causal_pairs(tokens, self.local + memory)

    def _flush(self, tokens: int) -> None:
        self.stored += tokens if self.mem else 0
        self.local = 0
