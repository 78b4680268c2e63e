"""A trained SharedLLM without its base: what was trained, the method's settings, and which base it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from sharedllm.configuration import method_settings
from sharedllm.modeling import SharedLLMForCausalLM

CONFIG = "sharedllm_adapter.json"
BASE = "base."
SHARD_BYTES = 2**30


def fingerprint(base: PreTrainedModel, without: Collection[str] = ()) -> str:
    """Hash of a base model's identity: names, shapes and the first values of all parameters, rounded to bfloat16.

    The rounding makes it the same for float32 and bfloat16 copies of one checkpoint. without: parameters to leave
    out, because the adapter has trained them and brings its own.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(base.named_parameters()):
        if name in without:
            continue
        head = parameter.detach().flatten()[:256].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + head.numpy().tobytes())
    return digest.hexdigest()


def save_adapter(
    model: SharedLLMForCausalLM,
    folder: str | Path,
    base_name: str,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the cross-attention and every base parameter that requires a gradient, as safetensors.

    base_name: what people call the base, for the message when another one is given. shard_bytes: largest file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    trained = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.named_parameters()
        if name.startswith(("cross_attention.", "lower.")) or parameter.requires_grad
    }
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in trained.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"adapter-{i + 1:02d}-of-{len(shards):02d}.safetensors")
    of_base = [n for n in trained if n.startswith(BASE)]
    record = {
        "format": 1,
        "base": base_name,
        "base_model_type": model.config.base_config.model_type,
        "base_fingerprint": fingerprint(model.base, [n.removeprefix(BASE) for n in of_base]),
        "settings": method_settings(model.config),
        "trained_base_parameters": of_base,
    }
    (folder / CONFIG).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter (and not a full model)."""
    return (Path(folder) / CONFIG).is_file()


def adapter_settings(folder: str | Path) -> dict[str, Any]:
    """Fields of SharedLLMConfig that an adapter was trained with."""
    return json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))["settings"]


def load_adapter(
    folder: str | Path, base: PreTrainedModel | str | None = None, **settings: Any
) -> SharedLLMForCausalLM:
    """The model of an adapter laid over its base, in evaluation mode; only what the adapter holds asks for gradients.

    base: the loaded base, its name or its folder; by default the name that the adapter gives. settings: fields of
    SharedLLMConfig to change (policy, ratios, ...): the weights depend on lower_layers and injection alone.

    Raises ValueError where the base is another one than the adapter was trained on, or tensors do not fit.
    """
    folder = Path(folder)
    record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if base is None:
        base = record["base"]
    if isinstance(base, str):
        base = AutoModelForCausalLM.from_pretrained(base)
    trained = record["trained_base_parameters"]
    if fingerprint(base, [name.removeprefix(BASE) for name in trained]) != record["base_fingerprint"]:
        raise ValueError(f"The adapter in {folder} was trained on {record['base']}: this base has other weights.")
    model = SharedLLMForCausalLM.from_base(base, **{**record["settings"], **settings})
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("adapter-*.safetensors")):
        weights.update(load_file(file))
    expected = {n for n, _ in model.named_parameters() if n.startswith(("cross_attention.", "lower."))}
    if missing := sorted((expected | set(trained)) - set(weights)):
        raise ValueError(f"The adapter in {folder} lacks {missing[0]}: check its files, lower_layers and injection.")
    _, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected:
        raise ValueError(f"The adapter in {folder} has weights this model has no place for: {unexpected[0]}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in weights)
    return model.eval()
