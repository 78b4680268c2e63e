"""Which bases a press can compress, and in which of their layers."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

from baselines.kvpress.names import parse
from evals.errors import UnfitError
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.base_config import windows

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Bases on which every press was compared with kvpress used by hand."""
MIXED = ("gemma3_text",)
"""Bases of which only the layers that see everything are compressed, as kvpress does with Gemma 3."""
WHOLE = {
    "kvcompose": "it spreads what it keeps over all layers",
    "pyramidkv": "it spreads what it keeps over all layers",
    "perlayercompression": "its ratios are those of all layers",
    "keyrerotation": "it moves tokens to new positions, and layers with a sliding window have theirs",
}
"""Presses that compress every layer or none, and why."""


def pressed_layers(config: PreTrainedConfig) -> list[int]:
    """The layers that a press compresses: all but those with a sliding window."""
    return [index for index, window in enumerate(windows(config)) if window is None]


def is_mixed(config: PreTrainedConfig) -> bool:
    """Whether some layers of a base stay as they are."""
    return set(windows(config)) != {None}


def check_base(model: PreTrainedModel, press: str) -> None:
    """Raises UnfitError for a base whose compressed cache could not be decoded from, or that `press` does not fit."""
    config = model.config
    kind, layers, pressed = config.model_type, config.num_hidden_layers, len(pressed_layers(config))
    fits = (kind in MIXED and pressed) or (kind in FAMILIES and pressed == layers)
    if not (fits and supports_static_decoding(model)):
        windowed = " with sliding windows" if kind in FAMILIES and pressed < layers else ""
        raise UnfitError(
            f"Presses work with bases of type {', '.join(FAMILIES)} without sliding windows and of type "
            f"{', '.join(MIXED)}, with --attn sdpa, on one device; this base is of type '{kind}'{windowed}: "
            "change what differs."
        )
    unfit = [name for nest in parse(press) for name in nest if name in WHOLE]
    if pressed < layers and unfit:
        raise UnfitError(
            f"The press {unfit[0]} does not fit a base that has a sliding window in {layers - pressed} of {layers} "
            f"layers: {WHOLE[unfit[0]]}; choose another press."
        )
