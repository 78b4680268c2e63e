"""How many tokens of a context each layer holds under a press: kvpress's own rounding, by formula."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from baselines.kvpress.bases import pressed_layers
from baselines.kvpress.library import Press, library
from sharedllm.nn.layers import decoder_of


def shortest(press: Press) -> int:
    """Tokens of the shortest context that the press can compress: its window, or what it always keeps, and one more."""
    kv, own = library(), cast(Any, press)
    least = 1
    if isinstance(press, kv.SnapKVPress):
        least = own.window_size + 1
    elif isinstance(press, kv.ExpectedAttentionPress | kv.StreamingLLMPress | kv.CapPress | kv.KVzipPress):
        least = own.n_sink + 1
    elif isinstance(press, kv.CompactorPress):
        least = own.sink_size_start + own.sink_size_end + 2
    elif isinstance(press, kv.TOVAPress):
        least = 2
    inner = [*getattr(press, "presses", ()), *([own.press] if hasattr(press, "press") else ())]
    return max(least, *(shortest(each) for each in inner), 1)


def held(press: Press, model: PreTrainedModel, tokens: int) -> list[int]:
    """Tokens that each layer holds of a context of `tokens`: those with a sliding window hold all of them.

    An upper bound where the context itself decides (`simlayerkv`, `chunkkv`). Of `kvcompose` only the sum is right: it
    spreads the tokens over the layers as it finds them.
    """
    modules = [cast(nn.Module, layer.self_attn) for layer in decoder_of(model).layers]
    if tokens < shortest(press):
        return [tokens] * len(modules)
    if isinstance(press, library().KVComposePress):
        kept = _kept(tokens * len(modules), cast(Any, press).compression_ratio)
        return [max(1, kept // len(modules) + (i < kept % len(modules))) for i in range(len(modules))]
    pressed = pressed_layers(model.config)
    return [_layer_held(press, module, tokens) if at in pressed else tokens for at, module in enumerate(modules)]


def _layer_held(press: Any, module: Any, tokens: int) -> int:
    kv = library()
    if isinstance(press, kv.ComposedPress):
        for each in press.presses:
            tokens = _layer_held(each, module, tokens)
        return tokens
    if isinstance(press, kv.AdaKVPress | kv.CriticalAdaKVPress | kv.DMSPress | kv.KVzipPress):
        return tokens  # masked
    if isinstance(press, kv.ThinKPress | kv.SimLayerKVPress):
        return tokens  # channels of keys are set to zero; layers are cut or not
    if isinstance(press, kv.PerLayerCompressionPress):
        return _kept(tokens, press.compression_ratios[module.layer_idx])
    ratio = press.compression_ratio
    if not ratio:
        return tokens
    if isinstance(press, kv.PyramidKVPress):
        return int(press.get_layer_budget(module, tokens))
    if isinstance(press, kv.ChunkPress):
        length = press.chunk_length
        return sum(_kept(min(length, tokens - start), ratio) for start in range(0, tokens, length))
    if isinstance(press, kv.ChunkKVPress) and not isinstance(press, kv.EntropyGatedChunkKVPress):
        length = press.chunk_length
        return min(tokens, _kept(-(-tokens // length), ratio) * length) if tokens >= length else _kept(tokens, ratio)
    return _kept(tokens, ratio)


def _kept(tokens: int, ratio: float) -> int:
    """As kvpress rounds."""
    compute = cast("Callable[[int, float], int]", importlib.import_module("kvpress.utils").compute_n_kept)
    return compute(tokens, ratio)
