"""Activation Beacon in the harness: the context is condensed window by window; query and answer continue it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from pydantic import BaseModel, Field

from baselines.activation_beacon.cache import BeaconCache, Fill
from baselines.activation_beacon.modeling import CLASSES, BeaconModel, adapt_ratio, check_config, covered
from baselines.activation_beacon.reader import BeaconReader
from baselines.activation_beacon.step import BeaconStep
from baselines.activation_beacon.training import Beacon, BeaconOptions
from evals.errors import UnfitError
from evals.methods import flops
from evals.methods.base import MOST, Cost, ReplayedSettings, Runtime, common_fields
from evals.methods.decoding.replays import ReplayingModel
from evals.methods.decoding.session import GraphSession
from evals.methods.decoding.static_decoder import decode_mode, supports_static_decoding
from evals.methods.kernels import FLASH_ATTN_4
from evals.methods.presets import Preset
from evals.methods.weights import causal_config, load_base, load_class, resolve, shape_config
from sharedllm.nn.base_config import head_dim, key_value_heads
from sharedllm.trained_adapter import TrainedRecord


class BeaconSettings(ReplayedSettings):
    """How far the context is condensed.

    The authors' rule counts the whole prompt; here the query is not known while the context is read (one read
    serves many queries), so it comes out of the reserve.
    """

    ratio: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="tokens per beacon; null: the smallest that covers prefix, context and reserve",
    )
    reserve: int = Field(1024, ge=0, le=MOST, description="tokens of query and answer that the choice counts on")


class BeaconSession(GraphSession[BeaconModel]):
    """A context whose full windows are condensed. Answers may fill further windows: `rewind` undoes that."""

    def __init__(self, model: BeaconModel, reader: BeaconReader, cache: BeaconCache, ids: Sequence[int]) -> None:
        super().__init__(model)
        self._reader, self._cache = reader, cache
        self._static = supports_static_decoding(model)
        if ids:
            self.context_hidden = reader(self._tensor(ids), cache, keep=1)[0]
        cache.mark()

    @property
    def state_bytes(self) -> int:
        return self._cache.state_bytes

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self._reader(ids, self._cache)[0]

    def _rewind(self) -> None:
        self._cache.rewind()

    def _graph_room(self) -> int:
        return self._cache.fill.room if self._static else 0

    def _graph_step(self, tokens: int) -> BeaconStep:
        return BeaconStep(self._model, self._cache, tokens)


@dataclass(kw_only=True)
class ActivationBeacon(ReplayingModel):
    """A released Activation Beacon checkpoint (Llama, Mistral or Qwen2 base), what `sharedllm-train` made of a base, or
    random weights."""

    settings_model: ClassVar[type[BaseModel]] = BeaconSettings
    own_class: ClassVar[bool] = True

    model: BeaconModel
    settings: BeaconSettings
    reader: BeaconReader

    @classmethod
    def inspect_adapter(cls, preset: Preset, folder: Path) -> TrainedRecord:
        record = Beacon.inspect(folder)
        options = BeaconOptions.model_validate(record.options)
        check_ratio(preset.name, BeaconSettings.of(preset).ratio, options.window, options.ratios)
        return record

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = BeaconSettings.of(preset)
        if preset.adapter is not None and not runtime.random_weights:
            # --checkpoint names what was trained; the base stays the preset's
            base, tokenizer = load_base(preset.weights, replace(runtime, checkpoint=None), preset.shape)
            model = Beacon.build(base, {}, preset.adapter_folder(runtime.checkpoint)).beacon_model
        else:
            model, tokenizer = load_class(_model_class(preset, runtime), preset.weights, runtime, preset.shape)
        model.join()
        config = model.config
        check_ratio(preset.name, settings.ratio, config.beacon_window, config.beacon_ratio)
        flash_only = set(runtime.kernel_order) <= {"flash", FLASH_ATTN_4}
        reader = BeaconReader(model, graphs=flash_only and not settings.eager_reads)
        fields = common_fields(
            preset,
            runtime,
            model,
            tokenizer,
            fairness={
                "window": config.beacon_window,
                "ratio": settings.ratio or f"smallest of {config.beacon_ratio} for length + {settings.reserve}",
                "sinks": getattr(config, "beacon_sink_size", 0),
                "positions": config.max_position_embeddings,
                "read": reader.mode,
            },
            trained=not runtime.random_weights,
            decode=decode_mode(model),
            longest=covered(config, settings.ratio or max(config.beacon_ratio)),
        )
        return cls(**fields, model=model, settings=settings, reader=reader)

    def ratio(self, context_tokens: int) -> int:
        """The ratio at which a context (with its prefix) of that length is read."""
        return self.settings.ratio or adapt_ratio(self.model.config, context_tokens, self.settings.reserve)

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> BeaconSession:
        ids = [*prefix_ids, *context_ids]
        return BeaconSession(self.model, self.reader, self.model.new_cache(self.ratio(len(ids))), ids)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """See `LongContextModel.cost`. A decode step is the mean one: every `ratio`-th brings a beacon along."""
        config = self.model.config
        empty: Fill = self.model.new_cache(self.ratio(context_tokens)).fill
        context, fill = self._read_flops(empty, context_tokens, keep=1)
        query, fill = self._read_flops(fill, query_tokens, keep=query_tokens)
        ratio = empty.layout.ratio
        rows = 1 + 1 / ratio
        step = flops.linear_flops(config) + flops.attention_flops(config, fill.used + 1)
        entry = flops.kv_bytes(config, self.dtype)
        beacons = [p for name, p in self.model.named_parameters() if "beacon_" in name]
        seldom = sum(p.numel() for p in beacons) * self.dtype.itemsize * (1 - 1 / ratio)
        return Cost(
            prefill_flops=context + query + flops.head_flops(config),
            decode_flops=rows * step + flops.head_flops(config),
            weight_bytes=flops.weight_bytes(self.model),
            state_bytes=entry * fill.used + entry // 2 * fill.staged,
            decode_bytes=flops.decode_weight_bytes(self.model) - round(seldom) + entry * fill.used,
        )

    def _read_flops(self, fill: Fill, tokens: int, keep: int) -> tuple[float, Fill]:
        """FLOPs of reading `tokens`, and the fill after. Only the last `keep` need all of the last layer."""
        config, total, left = self.model.config, 0.0, tokens
        kv = 4.0 * config.hidden_size * key_value_heads(config) * head_dim(config)
        for before, count in fill.pieces(tokens):
            left -= count
            whole = config.num_hidden_layers - (keep <= left)
            rows = fill.layout.slots(before.tokens + count) - fill.layout.slots(before.tokens)
            pairs = flops.causal_pairs(rows, before.used)
            total += rows * (whole * flops.layer_flops(config) + (config.num_hidden_layers - whole) * kv)
            total += flops.attention_flops(config, pairs, whole)
            fill = before.add(count)
        return total, fill


def check_ratio(name: str, ratio: int | None, window: int, trained: Sequence[int]) -> None:
    """Raises UnfitError for a ratio that leaves a part of the window over. trained: ratios that the beacons know."""
    if ratio is not None and window % ratio:
        raise UnfitError(
            f"The setting ratio={ratio} of {name} does not divide its window of {window} tokens: choose one of "
            f"{', '.join(map(str, trained))}."
        )


def _model_class(preset: Preset, runtime: Runtime) -> type[BeaconModel]:
    """The class for the base that the preset's shape, or the config beside its weights, names."""
    random = runtime.random_weights
    config = shape_config(preset.shape) if random else causal_config(resolve(preset.weights, runtime))
    if config.model_type not in CLASSES:
        raise UnfitError(
            f"The preset {preset.name} has a base of type '{config.model_type}': "
            f"Activation Beacon is implemented for {', '.join(CLASSES)}."
        )
    try:
        check_config(config)
    except ValueError as error:
        raise UnfitError(f"The preset {preset.name} cannot be loaded. {error}") from error
    return CLASSES[config.model_type]
