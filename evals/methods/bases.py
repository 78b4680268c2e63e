"""Which base models the methods can read, and with which kernel. What cannot be right is refused in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from evals.errors import UnfitError, UserError
from evals.methods.base import Runtime
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.prefill import read
from sharedllm.nn.base_config import check_family, steady_length, text_config, windows
from sharedllm.nn.layers import output_head
from sharedllm.nn.recipes import RECIPES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

AGREE = 0.05
"""Relative difference of logits below which two ways of computing them agree, in any dtype."""


def kernel_for(config: PreTrainedConfig, runtime: Runtime) -> str:
    """`attn_implementation` for a base, known before its weights are read.

    As the runtime says; where `--attn auto` chose a kernel that transformers does not have for this family,
    `runtime.attn_fallback`. Raises UserError for a kernel asked for by name that the family does not have, and for a
    family that the methods cannot read.
    """
    model_class = _model_class(config)
    try:
        check_family(config, model_class._is_stateful)
    except UserError as error:
        raise UserError(f"{error}.") from error
    has = {"sdpa": model_class._supports_sdpa, "flash_attention_2": model_class._supports_flash_attn}
    if has.get(runtime.attn, True):
        return runtime.attn
    if runtime.attn_fallback:
        return runtime.attn_fallback
    raise UnfitError(f"Models of type '{config.model_type}' do not run with --attn {runtime.attn}: use --attn eager.")


def _model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return cast("type[PreTrainedModel]", found[0] if isinstance(found, tuple) else found)


def check_steady(config: PreTrainedConfig, method: str) -> None:
    """Raises UserError for a base whose rotary frequencies change with the length, which `method` cannot follow."""
    if steady_length(config) is not None:
        raise UnfitError(f"{method} needs fixed rotary frequencies: choose a base without dynamic NTK or LongRoPE.")


def sliding_layers(config: PreTrainedConfig) -> dict[str, str]:
    """The entry of a fairness record, where a base has layers with a sliding window and a method holds all tokens in
    them: transformers' DynamicCache would hold the window less one.
    """
    sliding = [window for window in windows(config) if window is not None]
    return {"sliding layers": f"{len(sliding)}, all tokens held"} if sliding else {}


def check_reading(model: PreTrainedModel) -> None:
    """Compare three tokens read piece by piece with the model's own forward, for families without a recipe.

    Raises UserError where that fails or gives other logits: better than numbers that nobody can trust.
    """
    if text_config(model.config).model_type in RECIPES or model.device.type == "meta":
        return
    ids = torch.arange(3, device=model.device)[None]
    sentence = f"A base of type '{model.config.model_type}' cannot be read piece by piece"
    try:
        with torch.inference_mode():
            own = model(input_ids=ids).logits[0, -1].float()
            cache = BufferCache(text_config(model.config).num_hidden_layers, capacity=3)
            read(model, ids[:, :2], 0, cache)
            ours = output_head(model)(read(model, ids[:, 2:], 2, cache))[0].float().to(own.device)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{sentence} ({type(error).__name__}: {_short(error)}): choose another base.") from error
    if own.isfinite().all() and not (ours - own).norm() <= AGREE * own.norm():
        raise UserError(f"{sentence}: the logits differ from those of its own forward; choose another base.")


def _short(error: Exception) -> str:
    """The first sentence of a library's message."""
    return str(error).split("\n")[0].split(". ")[0].rstrip(".")
