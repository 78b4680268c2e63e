"""PEFT adapters (LoRA and relatives), merged into their base on load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods.boundary import AGAIN, read_json
from evals.methods.presets import Weights
from evals.methods.weights.checkpoint import ADAPTER_CONFIG, adapter_file, check_weight_files
from sharedllm.errors import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def base_of(folder: Path, weights: Weights) -> Weights:
    """The weights of an adapter's base: the preset's, or the base in its config if the preset is the adapter."""
    if weights.kind != "folder" or Path(weights.source).resolve() != folder.resolve():
        hub_adapter = weights.kind == "hub" and weights.name.replace("/", "--") in str(folder)
        if not hub_adapter:
            return weights
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"{folder / ADAPTER_CONFIG} names no base model: name a preset of the base and --checkpoint.")
    if Path(name).resolve() == folder.resolve():
        raise UserError(f"{folder / ADAPTER_CONFIG} names its own folder as the base model: write the base there.")
    try:
        return Weights(source=name if Path(name).is_dir() else f"hub:{name}")
    except (ValueError, OSError) as error:
        raise UserError(
            f"The base {name[:200]!r} of the adapter in {folder} is not here: name a preset of it."
        ) from error


def check(folder: Path) -> None:
    """Raises UserError if an adapter cannot be merged, before its base is read."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f"{folder} holds a PEFT adapter: pip install peft, or merge it into its base (merge_and_unload)."
        )
    if read_json(folder / ADAPTER_CONFIG).get("megatron_config") is not None:  # peft imports the module that it names
        raise UserError(f"{folder / ADAPTER_CONFIG} is of a Megatron model: merge the adapter with its own tools.")
    path = adapter_file(folder)
    if path is None:
        raise UserError(f"There is no adapter_model.safetensors in {folder}: {AGAIN}.")
    check_weight_files([path])


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base with the adapter added to its weights. Raises UserError if the two do not match."""
    peft = importlib.import_module("peft")
    what = f"The adapter in {folder}"
    with reading(what, "check that it was trained on this base"):
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        adapted = peft.PeftModel(model, config)
        result = peft.set_peft_model_state_dict(adapted, peft.load_peft_weights(str(folder), device="cpu"))
    missing = [key for key in result.missing_keys if ".lora_" in key or "modules_to_save" in key]
    if missing or result.unexpected_keys:
        name = (missing or result.unexpected_keys)[0]
        raise UserError(f"{what} does not fit its base at {name}: check that it was trained on this base.")
    with reading(what, "check that it was trained on this base"):
        whole: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return whole
