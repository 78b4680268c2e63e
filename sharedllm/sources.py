"""Where an adapter and its base are found: a folder, a name of this package, or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash

from sharedllm.adapter_files import CONFIG, SHIPPED, AdapterRecord, is_adapter, shipped_base, shipped_names
from sharedllm.errors import UserError, nearest, reading
from sharedllm.files import cache_folder, is_folder

FROM_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
"""Options of `from_pretrained` that say how the hub is asked."""
FOR_BASE = ("dtype", "torch_dtype", "device_map", "attn_implementation", "cache_dir", "token", "local_files_only")
"""Options of `from_pretrained` that say how the base is loaded."""
OF_AUTO = (
    "revision",
    "force_download",
    "config",
    "trust_remote_code",
    "adapter_kwargs",
    "_from_auto",
    "_commit_hash",
    "_from_pipeline",
)
"""What is not for an adapter's base, or comes from the Auto classes and pipelines: no code of a repository ever runs,
and the config is made anew."""
QUIET = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo", "connection_errors")}


def adapter_folder(name: str | Path, options: Mapping[str, Any]) -> Path | None:
    """The folder of an adapter: `name` itself, one of this package, or a snapshot of a hub repository.

    options: `FROM_HUB`. None where there is no adapter of that name: transformers then says what is wrong.
    """
    if is_folder(str(name)):
        return Path(name) if is_adapter(name) else None
    if name in shipped_names():
        return SHIPPED / name
    if cached_file(str(name), CONFIG, **options, **QUIET) is None:
        return None
    with reading(f"The adapter {name}", "try again, or name a folder that holds it"):
        patterns = [CONFIG, "adapter-*.safetensors"]
        return Path(snapshot_download(str(name), allow_patterns=patterns, **options))


def shipped_folder(name: str) -> Path:
    """The folder of an adapter that comes with this package. Raises UserError for another name."""
    if name not in shipped_names():
        raise UserError(f"No adapter '{name}' comes with sharedllm: {nearest(name, shipped_names())}")
    return SHIPPED / name


def base_source(folder: Path, record: AdapterRecord) -> tuple[str, str | None]:
    """Name or folder, and commit, of the base of an adapter.

    For an adapter of this package the copy of the demo weights is taken where the harness has made it.
    """
    if folder.parent == SHIPPED:
        copy = cache_folder() / shipped_base(record.base).copy_name
        if (copy / "config.json").is_file():
            return str(copy), None
    return record.base, record.base_revision


def load_base(name: str, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """A base model by name or folder; code that comes with a checkpoint never runs.

    Raises UserError where it cannot be read.
    """
    advice = "name its folder in base=, or connect to the hub; `sharedllm-eval doctor --fix` brings the shipped one's"
    with reading(f"The base {name}", advice):
        loaded = AutoModelForCausalLM.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
    model = cast(PreTrainedModel, loaded)
    note_commit(model, name, revision, **{n: options[n] for n in FROM_HUB if n in options})
    return model


def note_commit(base: PreTrainedModel, name: str, revision: str | None = None, **options: Any) -> None:
    """Keep the hub's commit that a base was loaded from, for adapters of it: transformers forgets it since 5.23."""
    if not is_folder(name):
        path = cached_file(name, "config.json", revision=revision, **options, **QUIET)
        base.config._commit_hash = extract_commit_hash(path, None)
