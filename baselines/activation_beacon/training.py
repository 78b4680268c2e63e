"""Activation Beacon as a trained method: the beacons learn, the base is frozen (section 3.3 of the paper).

As in the authors' code, every window draws its ratio, all tokens of a text are targets, and the last window has no
beacons, since nothing would read them. One thing differs: of long texts only those ratios are drawn that keep all of it
within the base's positions; the authors' texts have 20 thousand tokens at most, and never reach them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self, cast

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from baselines.activation_beacon import unrolled
from baselines.activation_beacon.modeling import CLASSES, BeaconModel, adapt_ratio, check_config, covered, projection
from sharedllm.errors import UserError
from sharedllm.trained_adapter import BaseIdentity
from sharedllm.training.batches import Batch, whole_text
from sharedllm.training.loss import next_token_loss
from sharedllm.training.methods.base import AdaptedMethod, Options

Ratio = Annotated[int, Field(ge=1, le=2**20)]


class BeaconOptions(Options):
    """window: tokens that are condensed together. ratios: tokens per beacon, one of which every window draws."""

    window: Annotated[int, Field(ge=2, le=2**20)] = 2048
    ratios: Annotated[list[Ratio], Field(min_length=1, max_length=20)] = [2, 4, 8, 16, 32]  # noqa: RUF012  # pydantic copies it


class Beacon(AdaptedMethod):
    """Query, key and value projections and the embedding of beacons, which start as the base's and its end of text."""

    name = "beacon"
    presets = ("baselines.activation_beacon", "training_presets")
    preset = "beacon"
    options_model: ClassVar[type[Options]] = BeaconOptions
    # none is `fixed`: every beacon has the same weights, however many a window has and however long it is
    text = "Activation Beacon (Zhang et al., 2024, arXiv:2401.03462): windows condensed into the states of beacons."

    def __init__(self, model: BeaconModel, options: Options, base: BaseIdentity, init: Path | None) -> None:
        super().__init__(model, options, base, init)
        self.recompute = False

    @classmethod
    def build(cls, base: PreTrainedModel, options: Mapping[str, object], init: Path | None) -> Self:
        chosen = cast(BeaconOptions, cls.chosen(options, base, init))
        return cls(with_beacons(base, chosen), chosen, BaseIdentity.of(base), init)

    @property
    def beacon_model(self) -> BeaconModel:
        """The model, by its type."""
        return cast(BeaconModel, self.model)

    def check_window(self, what: str, chunks: int, running: int) -> None:
        config, tokens = self.model.config, chunks * self.chunk_size + running
        if tokens <= config.beacon_window:
            raise UserError(
                f"{what}: {tokens} tokens are one window of {config.beacon_window}, in which nothing is condensed: "
                "use longer texts, or set window in the method's options."
            )
        if tokens > (most := covered(config, max(config.beacon_ratio))):
            raise UserError(f"{what}: {tokens} tokens are more than the {most} that the largest ratio covers.")

    def groups(self) -> Mapping[str, Callable[[str], bool]]:
        return {"beacon": lambda name: "beacon_" in name}

    def checkpoint_gradients(self) -> None:
        self.recompute = True

    def compile(self) -> None:
        raise UserError("beacon: windows of every ratio and length would be compiled anew: set compile=false.")

    def hidden(self, batch: Batch) -> torch.Tensor:
        return self._read(whole_text(batch))[:, -batch.input_ids.shape[1] :]

    def loss(self, batch: Batch, compiled: bool) -> torch.Tensor:
        ids, head = whole_text(batch), self.head.weight
        hidden = self._read(ids)
        if batch.weights is None:  # plain text, all of which is learnt from
            rows = torch.arange(len(ids) * (ids.shape[1] - 1), device=ids.device)
            loss = next_token_loss(hidden, head, ids, rows=rows, compiled=compiled)
        else:
            running = hidden[:, -batch.input_ids.shape[1] :]
            loss = next_token_loss(running, head, batch.labels, batch.weights, batch.rows, compiled)
        # a text of one window has no beacons: it teaches nothing, but all processes take part
        return loss + 0.0 * self.beacon_model.decoder.beacon_embed_tokens.weight.sum()

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        """Final states (B, T, H): in training at drawn ratios, else at the smallest that suits the length."""
        model, tokens = self.beacon_model, ids.shape[1]
        windows = -(-tokens // model.config.beacon_window)
        if not model.training:
            return unrolled.read(model, ids, [adapt_ratio(model.config, tokens, 0)] * windows, recompute=False)
        return unrolled.read(model, ids, draw_ratios(model.config, tokens), self.recompute)


def draw_ratios(config: PreTrainedConfig, tokens: int) -> list[int]:
    """A ratio for each window of a text but the last, by torch's generator of the CPU."""
    ratios = sorted(config.beacon_ratio)
    fitting = [ratio for ratio in ratios if covered(config, ratio) >= tokens] or ratios[-1:]
    windows = -(-tokens // config.beacon_window)
    return [fitting[i] for i in torch.randint(len(fitting), (windows - 1,)).tolist()] + [0]


def with_beacons(base: PreTrainedModel, options: BeaconOptions) -> BeaconModel:
    """The model over the tensors of a base. Raises UserError for a base that does not fit."""
    kind = base.config.model_type
    if kind not in CLASSES:
        raise UserError(f"A base of type '{kind}' cannot get beacons: choose one of {', '.join(CLASSES)}.")
    config = copy.deepcopy(base.config)
    config.update({"beacon_window": options.window, "beacon_ratio": options.ratios, "beacon_param": ["q", "k", "v"]})
    try:
        check_config(config)
    except ValueError as error:
        raise UserError(f"The method's options do not fit. {error}") from error
    longest = options.window + options.window // min(options.ratios)
    if longest > config.max_position_embeddings:
        raise UserError(
            f"A window of {options.window} tokens with its beacons takes {longest} positions, the base has "
            f"{config.max_position_embeddings}: set a smaller window in the method's options."
        )
    with torch.device("meta"):
        model = CLASSES[kind](config)
    model.load_state_dict(base.state_dict(), strict=False, assign=True)
    model.tie_weights()
    model.base_model.rotary_emb = base.base_model.rotary_emb
    model.base_model.beacon_embed_tokens = nn.Embedding(1, config.hidden_size, _weight=_end_of_text(base))
    for layer in model.decoder.layers:
        attention = layer.self_attn
        for name in "qkv":
            setattr(attention, f"beacon_{name}_proj", copy.deepcopy(projection(attention, "", name)))
    if base.generation_config is not None:
        model.generation_config = base.generation_config
    model.train(base.training)
    return model


def _end_of_text(base: PreTrainedModel) -> torch.Tensor:
    """A copy (1, H) of the embedding of the base's end of text. Raises UserError for a base without one."""
    end = base.config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    if end is None:
        raise UserError("The base's config has no eos_token_id, whose embedding beacons start from: add it.")
    weight: torch.Tensor = base.get_input_embeddings().weight  # type: ignore[assignment]  # an embedding
    return weight[end : end + 1].detach().clone()
