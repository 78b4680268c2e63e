"""The config of a causal language model, from a folder or from a preset's shape."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError, unknown
from evals.methods.boundary import AGAIN
from evals.methods.config_fields import check_fields
from evals.methods.weights.checkpoint import CONFIG, read_config
from sharedllm.errors import reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig


WRONG_ROPE = re.compile(r"_factor field must (have|be greater|be a list)|'s factor field must|'s beta_fast field must")
"""Warnings after which the rotary table is not what the config's author meant."""
OLD_NAMES = ("rope_theta", "rope_scaling", "torch_dtype")
"""Fields that transformers reads under new names."""


def causal_config(folder: Path) -> PretrainedConfig:
    """The config of a folder's model; code in the folder never runs.

    Raises UserError for a model that needs such code, and for one that is not a causal language model.
    """
    from transformers import AutoConfig

    path = folder / CONFIG
    fields = read_config(folder)
    check_family(str(fields["model_type"]), str(path), has_code="auto_map" in fields)
    with reading(path, AGAIN), _rope_warnings_are_errors():
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _check_direction(config, str(path))
    _check_quantization(fields.get("quantization_config"), str(path))
    return config


def shape_config(shape: Mapping[str, object] | None) -> PretrainedConfig:
    """The config of a preset's `shape`. Raises UserError where the preset has none, or none that can be built."""
    from transformers import AutoConfig

    if not shape or "model_type" not in shape:
        raise UserError("--random-weights needs a preset with a `shape` (model_type and its config fields).")
    fields = {key: value for key, value in shape.items() if key != "model_type"}
    check_fields(fields, "The shape")
    check_family(str(shape["model_type"]), "The shape", has_code=False)
    with reading("The shape", "correct its fields"), _rope_warnings_are_errors():
        config: PretrainedConfig = AutoConfig.for_model(str(shape["model_type"]), **fields)
    _check_direction(config, "The shape")
    return config


@contextmanager
def _rope_warnings_are_errors() -> Iterator[None]:
    """Raises ValueError for rotary settings that transformers calls wrong in a warning, and then uses."""
    logger, messages = logging.getLogger("transformers.modeling_rope_utils"), list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]  # a small handler
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # whatever the verbosity of the library
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    for message in messages:
        if WRONG_ROPE.search(message):
            raise ValueError(message)


def check_known(shape: Mapping[str, object]) -> None:
    """Raises UserError for a field that the family does not have: transformers would store and ignore it."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[str(shape["model_type"])]()
    unused = sorted(name for name in shape if name not in OLD_NAMES and not hasattr(config, name))
    if unused:
        raise unknown(f"field of a {shape['model_type']} shape", unused[0], config.to_dict())


def check_family(model_type: str, what: str, *, has_code: bool) -> None:
    """Raises UserError, which begins with `what`, for a family that transformers cannot build as a language model."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if model_type not in CONFIG_MAPPING:
        why = "which needs the checkpoint's own code, and that is never run" if has_code else "which is unknown"
        raise UserError(f"{what}: model_type is '{model_type:.60}', {why}: choose a model that transformers supports.")
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{what}: models of type '{model_type}' are not causal language models.")


def _check_direction(config: PretrainedConfig, what: str) -> None:
    """transformers also lists encoders as causal models; unless `is_decoder` is set they attend in both directions."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if config.is_encoder_decoder or (encoder and not getattr(config, "is_decoder", False)):
        raise UserError(f"{what}: models of type '{config.model_type}' are not decoders.")


def _check_quantization(settings: object, what: str) -> None:
    """transformers ignores an unknown quantisation method and loads the packed weights as if they were plain."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if settings is None:
        return
    known = {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    packed = isinstance(settings, dict) and (settings.get("load_in_4bit") or settings.get("load_in_8bit"))
    if method not in known and not packed:
        raise UserError(f"{what}: the quantisation method {method!r:.60} is unknown: name an unquantised checkpoint.")
