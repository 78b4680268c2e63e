"""Random weights in a preset's shape: they depend on the seed alone and are made on the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.tokenizers import byte_tokenizer, has_tokenizer, load_tokenizer
from evals.methods.weights.sources import resolve
from evals.methods.weights.spread import random_spread
from sharedllm.errors import reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

M = TypeVar("M", bound="PreTrainedModel")


def random_model(
    config: PretrainedConfig, runtime: Runtime, model_class: type[PreTrainedModel] | None = None
) -> PreTrainedModel:
    """A causal LM with random weights that depend on `runtime.seed` alone, made on the device in its dtype.

    The host never holds a copy: a 7B model in bfloat16 needs 13 GB on the device and nothing elsewhere.
    model_class: of the model, if it is not the one that transformers has for the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    untyped: object = AutoModelForCausalLM.from_config if model_class is None else model_class._from_config
    build = partial(
        cast("Callable[..., PreTrainedModel]", untyped),
        config,
        dtype=getattr(torch, runtime.dtype),
        attn_implementation=runtime.attn,
    )
    if runtime.gpus > 1:
        with reading("The shape", "correct its fields"):
            return evaluating(random_spread(build, runtime))
    device = torch.device(runtime.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(runtime.seed)
        with reading("The shape", "correct its fields") if model_class is None else nullcontext():
            model = build()
    return evaluating(model)


def evaluating(model: M) -> M:
    """The model in eval mode."""
    model.eval()  # type: ignore[no-untyped-call]  # transformers overrides it without types
    return model


def random_tokenizer(weights: Weights, runtime: Runtime, vocab_size: int) -> PreTrainedTokenizerBase:
    """The real tokenizer if it is on this machine and fits the vocabulary, else a byte tokenizer."""
    folder = tokenizer_folder(weights, runtime)
    if folder is not None:
        tokenizer = load_tokenizer(folder)
        if len(tokenizer) <= vocab_size:
            return tokenizer
    return byte_tokenizer(vocab_size)


def tokenizer_folder(weights: Weights, runtime: Runtime) -> Path | None:
    """The folder of the real tokenizer, if it is on this machine."""
    try:
        folder = resolve(weights, replace(runtime, offline=True), need_weights=False)
    except UserError:
        return None
    return folder if has_tokenizer(folder) else None
