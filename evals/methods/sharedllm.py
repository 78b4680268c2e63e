"""SharedLLM as a method of the harness: whole chunks of the context go to the lower model, the rest is running text.

Running text is prefix + remainder of the context (less than a chunk) + query. It is never empty: without a prefix
the last token of the context stays in it. A context shorter than a chunk is running text altogether, so the method
equals its dense base there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import BaseModel, Field
from torch import nn

from evals.errors import UnfitError, UserError
from evals.methods import flops
from evals.methods.base import Cost, Runtime, Session, common_fields
from evals.methods.bases import check_steady
from evals.methods.decoding.replays import ReplayingModel
from evals.methods.decoding.static_decoder import decode_mode
from evals.methods.presets import Preset
from evals.methods.sharedllm_reader import Reader
from evals.methods.sharedllm_session import SharedLLMSession
from evals.methods.weights import load_base
from sharedllm import SharedLLMConfig, SharedLLMForCausalLM
from sharedllm.adapter_files import AdapterRecord, adapter_settings, check_files, read_record, settings_over
from sharedllm.cost import arithmetic
from sharedllm.cross_attention import CrossAttention
from sharedllm.entry_budget import columns, entries
from sharedllm.inputs import ids_tensor
from sharedllm.prompt import whole_chunks
from sharedllm.settings import DEFAULTS, partial_settings
from sharedllm.trained_adapter import check_method
from sharedllm.validation import validate

OFFLOAD, EAGER_READS = "offload", "eager_reads"
SharedLLMSettings = partial_settings(
    "SharedLLMSettings",
    offload=(
        bool,
        Field(
            False,
            description="the compressed context stays in host memory, and each layer that reads it brings its part to "
            "the GPU for every token: the same numbers in less GPU memory, at the speed of the bus",
        ),
    ),
    eager_reads=(
        bool,
        Field(False, description="on a GPU, short contexts are read kernel by kernel, not replayed as CUDA graphs"),
    ),
)
"""Settings of the method that may be changed; those left out come from the adapter, or are the paper's. `OFFLOAD` and
`EAGER_READS` are of the run, not of the adapter."""


@dataclass(kw_only=True)
class SharedLLM(ReplayingModel):
    """The paper's method over a base and an adapter (without one it equals the base's running text)."""

    settings_model: ClassVar[type[BaseModel]] = SharedLLMSettings
    spreads: ClassVar[bool] = True

    model: SharedLLMForCausalLM
    reader: Reader

    @classmethod
    def settings_in_force(cls, preset: Preset) -> dict[str, Any]:
        """What the preset leaves out is the adapter's, where it is at hand, else the paper's."""
        found = {name: DEFAULTS.get(name, False) for name in cls.settings_model.model_fields}
        try:
            if preset.adapter is not None:
                trained = adapter_settings(preset.adapter_folder(None))
                found |= {name: trained[name] for name in found if name in trained}
        except UserError:
            pass  # not downloaded yet, or damaged, which loading tells
        return {**found, **preset.settings}

    @classmethod
    def inspect_adapter(cls, preset: Preset, folder: Path) -> AdapterRecord:
        check_method("sharedllm", folder)
        record = read_record(folder)
        chosen = settings_over(folder, record, _given(preset))
        _check_gpus(preset.name, preset.gpus, chosen["attention"])
        check_files(folder, record.trained_base_parameters, chosen)
        return record

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        given = _given(preset)
        # --checkpoint names what was trained; the base stays the preset's
        base, tokenizer = load_base(preset.weights, replace(runtime, checkpoint=None), preset.shape)
        check_steady(base.config, "SharedLLM")
        trained = preset.adapter is not None and not runtime.random_weights
        try:
            if trained:
                folder = preset.adapter_folder(runtime.checkpoint)
                check_method("sharedllm", folder)
                model = SharedLLMForCausalLM.from_adapter(folder, base, **given)
            else:
                model = SharedLLMForCausalLM.from_base(base, **given)
                model.train(False)
        except UserError as error:
            raise UnfitError(f"The preset {preset.name} does not fit: {error}") from error
        _check_gpus(preset.name, preset.gpus, model.config.attention)
        model.offload_context = offload = bool(preset.settings.get(OFFLOAD))
        if runtime.random_weights:
            randomise_output(model, runtime.seed)
        reader = Reader(model, graphs=not preset.settings.get(EAGER_READS))
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness={
                **fairness(model.config),
                **({"context": "in host memory"} if offload else {}),
                "read": reader.mode,
            },
            trained=trained,
            decode="eager" if offload else decode_mode(model, model.config.base_config),
        )
        return cls(**fields, model=model, reader=reader)

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        chunks, size = self._split(len(context_ids), len(prefix_ids) > 0), self.model.config.chunk_size
        ids = ids_tensor(context_ids[: chunks * size], self.device)
        lead = [*prefix_ids, *context_ids[chunks * size :]]
        return SharedLLMSession(self.model, self.reader, ids.view(1, chunks, size), lead)

    def _split(self, context: int, prefix: bool) -> int:
        """Whole chunks of a context that leave at least one token of running text."""
        return whole_chunks(context, self.model.config.chunk_size, prefix)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        chunks = self._split(context_tokens, prefix=False)
        running = context_tokens - chunks * self.model.config.chunk_size + query_tokens
        flop = arithmetic(self.model.config, chunks, running, query_tokens, self.dtype.itemsize)
        context_bytes = flop.state_bytes - arithmetic(self.model.config, 0, running, 0, self.dtype.itemsize).state_bytes
        return Cost(
            prefill_flops=flop.prefill,
            decode_flops=flop.decode,
            weight_bytes=flops.weight_bytes(self.model),
            state_bytes=flop.state_bytes + flop.tree_bytes,
            decode_bytes=flops.decode_weight_bytes(self.model) + flop.state_bytes,
            bus_bytes=context_bytes if self.model.offload_context else 0,
        )


def _check_gpus(name: str, gpus: int, attention: str) -> None:
    if gpus > 1 and attention == "joint":
        raise UnfitError(f"{name} with gpus={gpus}: joint attention runs on one GPU; set gpus=1.")


def _given(preset: Preset) -> dict[str, Any]:
    """The settings that a preset has, of those that an adapter has too."""
    return validate(SharedLLMSettings, preset.settings, preset.name).model_dump(
        exclude_unset=True, exclude={OFFLOAD, EAGER_READS}
    )


def randomise_output(model: SharedLLMForCausalLM, seed: int) -> None:
    """Give what reads the context an output as if trained: a projection of zeros would hide all mistakes."""
    meta = model.device.type == "meta"  # a shape without numbers: its cost is all that is asked
    generator = None if meta else torch.Generator(model.device).manual_seed(seed)
    starts = [cast(CrossAttention, cross).o_proj.weight for cross in model.cross_attention]
    starts += [weight for name, weight in model.joint_attention.named_parameters() if not name.endswith("slope")]
    for weight in starts:
        drawn = torch.empty_like(weight, device=model.device)
        nn.init.normal_(drawn, std=model.base.config.initializer_range, generator=generator)
        if not meta:
            weight.data.copy_(drawn)


def fairness(config: SharedLLMConfig) -> dict[str, Any]:
    """What the method may use: its entries of the fairness record."""
    kept = entries(config)
    others = kept if config.leaf_budget is None else len(columns(config, kept)[0])
    recent = {} if config.recent_budget is None else {"fine chunks unasked": config.recent_budget}
    joint = {"attention": "joint", "rank": config.rank} if config.attention == "joint" else {}
    trees = {"nodes": "all, once"} if config.whole_trees else {}
    return {
        **joint,
        **trees,
        "chunk": config.chunk_size,
        "ratios": config.ratios,
        "entries a chunk": kept,
        "fine chunks": "all" if config.leaf_budget is None else config.leaf_budget,
        "entries of others": others,
        **recent,
        "ratio": round(config.chunk_size / kept, 2),
        "lower layers": config.lower_layers,
        "injection": f"{len(config.injection_layers)} layers from {config.injection_layers[0]}",
        "policy": config.policy,
    }
