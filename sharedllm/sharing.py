"""An adapter to hand on: its files in a folder, or a repository of the hub with a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import CommitInfo, HfApi
from transformers import PreTrainedModel

from sharedllm.adapter_files import BASE, OWN, AdapterRecord, write_adapter
from sharedllm.base_identity import fingerprint, sampled_values
from sharedllm.configuration import SharedLLMConfig
from sharedllm.errors import UserError, reading
from sharedllm.files import is_folder, write_text
from sharedllm.model_card import CARD, model_card

SHARD_BYTES = 2**30


def save_adapter(
    model: PreTrainedModel,
    folder: str | Path,
    base_name: str,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
) -> AdapterRecord:
    """Write cross-attention or joint attention and every base parameter that requires a gradient, as safetensors.

    model: a SharedLLMForCausalLM. base_name: what people call the base: its hub name, so that others find it.
    shard_bytes: largest file. The config is written too: transformers' Auto classes look for it.
    """
    trained = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.named_parameters()
        if name.startswith(OWN) or parameter.requires_grad
    }
    of_base = [n for n in trained if n.startswith(BASE)]
    own = [n.removeprefix(BASE) for n in of_base]
    config, base = cast(SharedLLMConfig, model.config), cast(PreTrainedModel, model.base)
    record = AdapterRecord(
        format=1,
        base=base_name,
        base_model_type=config.base_config.model_type,
        base_revision=getattr(base.config, "_commit_hash", None),
        base_fingerprint=fingerprint(base, own),
        base_values=sampled_values(base, own),
        settings=config.method_settings(),
        trained_base_parameters=of_base,
    )
    write_text(Path(folder) / "config.json", config.to_json_string())
    write_adapter(Path(folder), trained, record, shard_bytes)
    return record


def push_adapter(
    model: PreTrainedModel,
    repo_id: str,
    *,
    base_name: str | None = None,
    training_data: str = "",
    quality: Sequence[Mapping[str, object]] = (),
    licence: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "SharedLLM adapter",
) -> CommitInfo:
    """Upload the adapter of a model, not its base, with a model card. Returns the hub's commit.

    base_name: hub name of the base, by default where the base was loaded from. training_data, quality: what the card
    says of them, see `model_card`. Raises UserError where the base has no name that others could load, and for
    what the hub refuses.
    """
    base = cast(PreTrainedModel, model.base)
    name = base_name or getattr(model, "adapter_base", None) or base.name_or_path
    if not name or is_folder(name):
        raise UserError(f"The base comes from '{name}', which others do not have: name its hub repository, base_name=.")
    with tempfile.TemporaryDirectory() as folder:
        record = save_adapter(model, folder, name)
        write_text(Path(folder) / CARD, model_card(record, repo_id, training_data, quality, licence))
        api = HfApi(token=token)
        with reading(f"The answer of the hub for {repo_id}", "check the name, log in (`hf auth login`) and try again"):
            api.create_repo(repo_id, private=private, exist_ok=True)
            pushed: CommitInfo = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
    return pushed
