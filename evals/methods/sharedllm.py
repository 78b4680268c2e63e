"""SharedLLM as a method of the harness: whole chunks of the context go to the lower model, the rest is running text.

Running text is prefix + remainder of the context (less than a chunk) + query. It is never empty: without a prefix
the last token of the context stays in it. A context shorter than a chunk is running text altogether, so the method
equals its dense base there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import BaseModel

from evals.errors import UserError
from evals.methods import flops
from evals.methods.base import Cost, LongContextModel, Query, Runtime, Session
from evals.methods.decoding.cuda_graph import LONGEST
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.session import GraphSession
from evals.methods.decoding.static_decoder import CacheStep, decode_mode, supports_static_decoding
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from evals.settings import validate
from sharedllm import CompressedContext, SharedLLMForCausalLM
from sharedllm.adapter_files import adapter_settings
from sharedllm.cost import Arithmetic, arithmetic
from sharedllm.entry_budget import columns, entries
from sharedllm.inputs import ContextInputs
from sharedllm.nn.layers import decoder_of, output_head
from sharedllm.settings import DEFAULTS, partial_settings

SharedLLMSettings = partial_settings("SharedLLMSettings")
"""Settings of the method that may be changed; those left out come from the adapter, or are the paper's."""


class SharedLLMSession(GraphSession[SharedLLMForCausalLM]):
    """A context whose chunks are compressed once, or for every question where the policy searches.

    The lead (prefix and remainder) is read with the first query and kept; queries are taken back.
    """

    def __init__(self, model: SharedLLMForCausalLM, chunks: torch.Tensor, lead: Sequence[int]) -> None:
        self.device = model.device
        self._model = model
        self._chunks = chunks
        self._lead = list(lead)
        self._searches = model.config.policy != "right" and chunks.shape[1] > 0
        self._cache = self._new_cache()
        self._compressed: CompressedContext | None = None
        self._span: tuple[int, int] | None = None
        self._asked: tuple[Any, ...] | None = None
        self._fresh = True
        self._static = supports_static_decoding(model, model.config.base_config)
        if not self._searches:
            self._read_plain()

    @property
    def state_bytes(self) -> int:
        return self._cache.nbytes + (self._compressed.nbytes if self._compressed else 0)

    def trace(self) -> dict[str, Any]:
        """For each chunk with whole leaves the tokens kept most finely, as the search found them."""
        path = None if self._compressed is None else self._compressed.path
        if path is None or not path.numel():
            return {}
        fine = None if self._compressed is None else self._compressed.fine
        whole = [True] * path.shape[1] if fine is None else fine[0].tolist()
        size, height = self._model.config.chunk_size, self._model.config.height
        kept = []
        for index, steps in enumerate(path[0].tolist()):
            if not whole[index]:
                continue
            start, width = 0, size
            for right in steps:
                width, start = (width - width // 2, start + width // 2) if right else (width // 2, start)
            kept.append({"chunk": index, "start": index * size + start, "end": index * size + start + width})
        return {"height": height, "kept_full": kept}

    def _new_cache(self) -> BufferCache:
        return BufferCache(self._model.config.base_config.num_hidden_layers, capacity=len(self._lead) + 256)

    def _read_plain(self) -> None:
        """Read without a search: what language modelling and the policy `right` need."""
        if not self._fresh and self._span is None:
            return
        self._cache, self._span, self._fresh, self._asked = self._new_cache(), None, False, None
        self._compressed = self._model.compress(self._chunks) if self._chunks.shape[1] else None
        if self._lead:
            self.context_hidden = self._decode(self._tensor(self._lead))[-1:].clone()

    def _begin(self, query: Query) -> None:
        span = query.question
        if not self._searches or span is None or span[0] == span[1]:
            self._read_plain()
            return
        asked = (tuple(query.ids[: span[1]]), span)
        if asked == self._asked:  # the same question again: its tree is still here
            return
        self._asked, self._span, self._fresh = asked, span, False
        self._cache, self._compressed = self._new_cache(), None

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self._span is None or self._compressed is not None:
            return self._decode(ids)
        start, end = self._span
        both = torch.cat([self._tensor(self._lead), ids], 1)
        read = self._model.decode(
            ContextInputs(
                input_ids=both,
                context_ids=self._chunks,
                query_start=len(self._lead) + start,
                query_length=end - start,
                past_key_values=self._cache,
                use_cache=True,
            )
        )
        self._compressed = read.context
        return read.hidden[0, len(self._lead) :]

    def _decode(self, ids: torch.Tensor) -> torch.Tensor:
        inputs = ContextInputs(input_ids=ids, context=self._compressed, past_key_values=self._cache, use_cache=True)
        return self._model.decode(inputs).hidden[0]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return output_head(self._model)(hidden)

    def _rewind(self) -> None:
        self._cache.truncate(len(self._lead))

    def _graph_room(self) -> int:
        return LONGEST if self._static else 0

    def _graph_step(self, tokens: int) -> SharedLLMStep:
        return SharedLLMStep(self._model, self._compressed, self._cache, tokens)


class SharedLLMStep(CacheStep):
    """The base's step with the cross-attention of its injection layers to what the context was compressed to."""

    def __init__(
        self, model: SharedLLMForCausalLM, context: CompressedContext | None, cache: BufferCache, tokens: int
    ) -> None:
        super().__init__(decoder_of(model.base), output_head(model), model.config.base_config, cache, tokens)
        self._context = context
        self._cross = dict(zip(model.config.injection_layers, enumerate(model.cross_attention), strict=True))

    def between(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        if self._context is None or index not in self._cross:
            return hidden
        number, cross = self._cross[index]
        return cast(torch.Tensor, cross(hidden, self._context.layer(number)))


@dataclass(kw_only=True)
class SharedLLM(LongContextModel):
    """The paper's method over a base and an adapter (without one it equals the base's running text)."""

    settings_model: ClassVar[type[BaseModel]] = SharedLLMSettings

    model: SharedLLMForCausalLM

    @classmethod
    def settings_in_force(cls, preset: Preset) -> dict[str, Any]:
        """What the preset leaves out is the adapter's, where it is at hand, else the paper's."""
        found = {name: DEFAULTS[name] for name in cls.settings_model.model_fields}
        try:
            if preset.adapter is not None:
                trained = adapter_settings(preset.adapter_folder(None))
                found |= {name: trained[name] for name in found if name in trained}
        except ValueError:
            pass  # not downloaded yet, or damaged, which loading tells
        return {**found, **preset.settings}

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        given = validate(cls.settings_model, preset.settings, preset.name).model_dump(exclude_unset=True)
        # --checkpoint names what was trained; the base stays the preset's
        base, tokenizer = load_base(preset.weights, replace(runtime, checkpoint=None), preset.shape)
        try:
            if preset.adapter is None or runtime.random_weights:
                model = SharedLLMForCausalLM.from_base(base, **given)
                model.train(False)
                if runtime.random_weights:  # as a trained one: an output projection of zeros would hide all mistakes
                    meta = base.device.type == "meta"  # a shape without numbers: its cost is all that is asked
                    generator = None if meta else torch.Generator(base.device).manual_seed(runtime.seed)
                    for cross in model.cross_attention:
                        weight: torch.Tensor = cross.o_proj.weight
                        torch.nn.init.normal_(weight, std=base.config.initializer_range, generator=generator)
            else:
                model = SharedLLMForCausalLM.from_adapter(preset.adapter_folder(runtime.checkpoint), base, **given)
        except ValueError as error:
            raise UserError(f"The preset {preset.name} does not fit: {error}") from error
        config = model.config
        kept = entries(config)
        fine: dict[str, Any] = {}
        if config.leaf_budget is not None:
            fine = {"fine chunks": config.leaf_budget, "entries of others": len(columns(config, kept)[0])}
        return cls(
            name=preset.name,
            tokenizer=tokenizer,
            device=model.device,
            dtype=model.dtype,
            max_context=preset.max_context,
            fairness={
                "chunk": config.chunk_size,
                "ratios": config.ratios,
                "entries a chunk": kept,
                **fine,
                "ratio": round(config.chunk_size / kept, 2),
                "lower layers": config.lower_layers,
                "injection": f"{len(config.injection_layers)} layers from {config.injection_layers[0]}",
                "policy": config.policy,
                "kernel": runtime.attn,
                "decode": decode_mode(model, config.base_config),
                "dtype": runtime.dtype,
                "trained": preset.adapter is not None and not runtime.random_weights,
            },
            model=model,
        )

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        chunks, size = self._split(len(context_ids), bool(prefix_ids)), self.model.config.chunk_size
        ids = torch.tensor([list(context_ids[: chunks * size])], dtype=torch.long, device=self.device)
        return SharedLLMSession(self.model, ids.view(1, chunks, size), [*prefix_ids, *context_ids[chunks * size :]])

    def _split(self, context: int, prefix: bool) -> int:
        """Whole chunks of a context that leave at least one token of running text."""
        return max(0, context - (not prefix)) // self.model.config.chunk_size

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        chunks = self._split(context_tokens, prefix=False)
        running = context_tokens - chunks * self.model.config.chunk_size + query_tokens
        flop: Arithmetic = arithmetic(self.model.config, chunks, running, query_tokens, self.dtype.itemsize)
        return Cost(
            prefill_flops=flop.prefill,
            decode_flops=flop.decode,
            weight_bytes=flops.weight_bytes(self.model),
            state_bytes=flop.state_bytes,
            decode_bytes=flops.decode_weight_bytes(self.model) + flop.state_bytes,
        )
