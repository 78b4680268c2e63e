"""A base model and its tokenizer, ready to run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.tokenizers import fit_vocabulary, has_tokenizer, load_tokenizer
from evals.methods.weights import peft_adapter
from evals.methods.weights.checkpoint import is_adapter
from evals.methods.weights.configs import causal_config, check_known, shape_config
from evals.methods.weights.keys import LoadingInfo, check_keys
from evals.methods.weights.random import evaluating, random_model, random_tokenizer
from evals.methods.weights.sources import resolve
from evals.methods.weights.spread import device_map
from evals.packages import version
from sharedllm.errors import reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

M = TypeVar("M", bound="PreTrainedModel")
ADVICE = "download a damaged file again, or name another checkpoint"


def load_base(
    weights: Weights,
    runtime: Runtime,
    shape: Mapping[str, object] | None,
    *,
    config_overrides: Mapping[str, object] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM in eval mode, on the device and in the dtype of `runtime`, and its tokenizer.

    shape: config fields with `model_type`, used with `runtime.random_weights` alone. config_overrides: config
    fields to replace before the model is built (`rope_parameters`, `max_position_embeddings`, ...). A PEFT adapter is
    merged into its base. Raises UserError for weights that are missing, gated, broken or do not fit their config, if
    possible before they are read.
    """
    from evals.methods.bases import kernel_for  # torch, which a dry run does not need

    check_attention(runtime.attn)
    overrides = dict(config_overrides or {})
    if runtime.random_weights:
        config = shape_config(shape)
        check_known(shape or {})
        config.update(overrides)
        model = random_model(config, replace(runtime, attn=kernel_for(config, runtime)))
        return model, random_tokenizer(weights, runtime, config.get_text_config(decoder=True).vocab_size)
    folder = resolve(weights, runtime)
    if is_adapter(folder):
        return _load_adapted(folder, weights, runtime, overrides)
    config, tokenizer = causal_config(folder), load_tokenizer(folder)
    fit_vocabulary(folder, tokenizer, _rows(config))
    config.update(overrides)
    return _read_causal(folder, config, replace(runtime, attn=kernel_for(config, runtime))), tokenizer


def load_class(
    model_class: type[M], weights: Weights, runtime: Runtime, shape: Mapping[str, object] | None
) -> tuple[M, PreTrainedTokenizerBase]:
    """`load_base` for a PreTrainedModel class of our own, which reads a released checkpoint as it is.

    shape: fields of the class's config; its `model_type` is not looked at. Raises UserError also where the
    checkpoint lacks weights that the class has: random ones would take their place.
    """
    check_attention(runtime.attn)
    config_class = cast("type[PretrainedConfig]", model_class.config_class)
    if runtime.random_weights:
        fields = {key: value for key, value in (shape or {}).items() if key != "model_type"}
        with reading("The shape", "correct its fields"):
            config = cast("Callable[..., PretrainedConfig]", config_class)(**fields)
        model = cast("M", random_model(config, runtime, model_class))
        return model, random_tokenizer(weights, runtime, config.vocab_size)
    folder = resolve(weights, runtime)
    if is_adapter(folder):
        raise UserError(f"{folder} holds a PEFT adapter, and {model_class.__name__} takes whole checkpoints: merge it.")
    tokenizer = load_tokenizer(folder)
    with reading(folder / "config.json", ADVICE):
        config = config_class.from_pretrained(folder)
    fit_vocabulary(folder, tokenizer, _rows(config))
    return cast("M", _read(model_class.from_pretrained, folder, config, runtime, runtime.device)), tokenizer


def check_attention(attn: str) -> None:
    """Raises UserError where the attention kernel is not installed."""
    if attn == "flash_attention_2" and version("flash-attn") is None:  # flash-attn-4 has the same module name
        raise UserError("--attn flash_attention_2 needs flash-attn: pip install 'sharedllm[flash]', or use sdpa.")


def _rows(config: PretrainedConfig) -> int:
    """Tokens that have an embedding."""
    rows: int = config.get_text_config().vocab_size
    return rows


def _load_adapted(
    folder: Path, weights: Weights, runtime: Runtime, overrides: Mapping[str, object]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base with a PEFT adapter merged into it, and the adapter's tokenizer where it brings one."""
    if runtime.gpus > 1:
        raise UserError(f"{folder} holds a PEFT adapter, which is merged on one GPU: merge it before, or set gpus=1.")
    base, base_runtime = peft_adapter.base_of(folder, weights), replace(runtime, checkpoint=None)
    peft_adapter.check(folder)
    model, tokenizer = load_base(base, base_runtime, None, config_overrides=overrides)
    if has_tokenizer(folder):
        tokenizer = load_tokenizer(folder)
        fit_vocabulary(folder, tokenizer, _rows(model.config))
    return evaluating(peft_adapter.merged(model, folder)), tokenizer


def _read_causal(folder: Path, config: PretrainedConfig, runtime: Runtime) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    build = partial(AutoModelForCausalLM.from_config, copy.deepcopy(config), dtype=getattr(torch, runtime.dtype))
    with reading(f"The checkpoint in {folder}", ADVICE):
        place = device_map(build, runtime)
    return _read(AutoModelForCausalLM.from_pretrained, folder, config, runtime, place)


def _read(
    from_pretrained: Callable[..., object],
    folder: Path,
    config: PretrainedConfig,
    runtime: Runtime,
    place: str | dict[str, int],
) -> PreTrainedModel:
    """The model of a folder, with every weight loaded from it. Neither pickles nor code in the folder ever run.

    place: `device_map` of transformers.
    """
    import torch

    with reading(f"The checkpoint in {folder}", ADVICE):
        loaded = from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, runtime.dtype),
            attn_implementation=runtime.attn,
            device_map=place,
            trust_remote_code=False,
            weights_only=True,
            ignore_mismatched_sizes=True,  # so that they are listed; `check_keys` refuses them
            output_loading_info=True,
        )
    model, info = cast("tuple[PreTrainedModel, LoadingInfo]", loaded)
    check_keys(folder, info)
    return evaluating(model)
