"""A base model and its tokenizer, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.tokenizers import load_tokenizer
from evals.methods.weights.random import evaluating, random_model, random_tokenizer, shape_config
from evals.methods.weights.sources import resolve
from evals.packages import version

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

M = TypeVar("M", bound="PreTrainedModel")


def load_base(
    weights: Weights,
    runtime: Runtime,
    shape: Mapping[str, Any] | None,
    *,
    config_overrides: Mapping[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM in eval mode, on the device and in the dtype of `runtime`, and its tokenizer.

    shape: config fields with `model_type`, used with `runtime.random_weights` alone. config_overrides: config
    fields to replace before the model is built (`rope_parameters`, `max_position_embeddings`, ...).
    Raises UserError where weights are missing or gated.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_attention(runtime.attn)
    overrides = dict(config_overrides or {})
    if runtime.random_weights:
        config = shape_config(shape)
        config.update(overrides)
        model = random_model(config, runtime)
        return model, random_tokenizer(weights, runtime, config.vocab_size)
    folder = resolve(weights, runtime)
    tokenizer = load_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.update(overrides)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=getattr(torch, runtime.dtype),
        attn_implementation=runtime.attn,
        device_map=runtime.device,
        trust_remote_code=False,
    )
    return evaluating(model), tokenizer


def load_class(
    model_class: type[M], weights: Weights, runtime: Runtime, shape: Mapping[str, Any] | None
) -> tuple[M, PreTrainedTokenizerBase]:
    """`load_base` for a PreTrainedModel class of our own, which reads a released checkpoint as it is.

    shape: fields of the class's config; its `model_type` is not looked at. Raises UserError also where the
    checkpoint lacks weights that the class has: random ones would take their place.
    """
    import torch

    check_attention(runtime.attn)
    if runtime.random_weights:
        fields = {key: value for key, value in (shape or {}).items() if key != "model_type"}
        config = _config_class(model_class)(**fields)
        model = cast("M", random_model(config, runtime, model_class))
        return model, random_tokenizer(weights, runtime, config.vocab_size)
    folder = resolve(weights, runtime)
    tokenizer = load_tokenizer(folder)
    loaded: object = model_class.from_pretrained(
        folder,
        dtype=getattr(torch, runtime.dtype),
        attn_implementation=runtime.attn,
        device_map=runtime.device,
        output_loading_info=True,
        trust_remote_code=False,
    )
    model, info = cast("tuple[M, dict[str, set[str]]]", loaded)
    if info["missing_keys"]:
        first = min(info["missing_keys"])
        raise UserError(
            f"The checkpoint in {folder} lacks {len(info['missing_keys'])} weights of {model_class.__name__} "
            f"({first}, ...): name a complete one with --checkpoint DIR."
        )
    return evaluating(model), tokenizer


def _config_class(model_class: type[PreTrainedModel]) -> type[PretrainedConfig]:
    assert model_class.config_class is not None  # every class of ours names one
    return model_class.config_class


def check_attention(attn: str) -> None:
    """Raises UserError where the attention kernel is not installed."""
    if attn == "flash_attention_2" and version("flash-attn") is None:  # flash-attn-4 has a module of that name, too
        raise UserError("--attn flash_attention_2 needs flash-attn: pip install 'sharedllm[flash]', or use sdpa.")
