"""Plausible values of model config fields, for a preset's `shape` and a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Mapping

from evals.errors import UserError

COUNTS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 17,
    "n_embd": 1 << 17,
    "d_model": 1 << 17,
    "intermediate_size": 1 << 20,
    "ffn_dim": 1 << 20,
    "num_hidden_layers": 4096,
    "n_layer": 4096,
    "n_layers": 4096,
    "num_attention_heads": 4096,
    "n_head": 4096,
    "n_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 14,
    "max_position_embeddings": 1 << 31,
    "n_positions": 1 << 31,
    "original_max_position_embeddings": 1 << 31,
}
"""Positive integers and the largest plausible value of each."""
SMALL = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")
"""Numbers between zero and one."""
OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings", "intermediate_size")
"""Null means the default of the family."""
POSITIVE = ("rope_theta", "factor")
"""Numbers above zero."""
NESTED = ("text_config", "encoder_config", "rope_parameters", "rope_scaling")


def check_fields(fields: Mapping[str, object], what: str) -> None:
    """Raises UserError, which begins with `what`, for fields from which no model can be built.

    Other fields are left to the library that builds the model.
    """
    for name, value in fields.items():
        if name in COUNTS:
            _check_count(name, value, what)
        if name in SMALL and not (isinstance(value, float) and 0 < value < 1):
            raise UserError(f"{what}: {name} is {value!r:.40}, not a number between 0 and 1.")
        if name in POSITIVE and value is not None and not (isinstance(value, int | float) and value > 0):
            raise UserError(f"{what}: {name} is {value!r:.40}, not a number above 0.")
        if name in NESTED and value is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"{what}: {name} is not a mapping of config fields.")
            check_fields(value, f"{what}, {name}")
    _check_heads(fields, what)


def _check_count(name: str, value: object, what: str) -> None:
    if value is None and name in OPTIONAL:
        return
    if isinstance(value, list) and value and name != "vocab_size":  # one for each layer, as OpenELM has
        for item in value:
            _check_count(name, item, what)
        return
    if type(value) is not int or not 0 < value <= COUNTS[name]:
        raise UserError(f"{what}: {name} is {value!r:.40}, not a whole number from 1 to {COUNTS[name]:,}.")


def _check_heads(fields: Mapping[str, object], what: str) -> None:
    heads, size = fields.get("num_attention_heads"), fields.get("hidden_size")
    groups = fields.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise UserError(f"{what}: {heads} attention heads cannot share {groups} key-value heads.")
    if isinstance(heads, int) and isinstance(size, int) and size % heads and not fields.get("head_dim"):
        raise UserError(f"{what}: hidden_size {size} is not a multiple of its {heads} attention heads.")


def longest_input(fields: Mapping[str, object]) -> int | None:
    """Positions that the model was trained for according to its config, or None."""
    nested = fields.get("text_config")
    if isinstance(nested, Mapping) and (found := longest_input(nested)):
        return found
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
        value = fields.get(name)
        if type(value) is int and value > 0:
            return value
    return None
