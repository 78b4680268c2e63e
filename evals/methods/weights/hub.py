"""Weights on the Hugging Face hub: which files are fetched, in which order, and what to do if that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.errors import UserError
from evals.hub import local_only
from evals.methods.presets import Weights
from evals.methods.tokenizers import TOKENIZER_FILES, has_tokenizer
from evals.methods.weights.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    CONFIG,
    WEIGHT_NAMES,
    is_adapter,
    read_config,
    shard_names,
)
from sharedllm.errors import reading, reason

SMALL_FILES = (CONFIG, "generation_config.json", ADAPTER_CONFIG, "*.index.json", *TOKENIZER_FILES)
"""Fetched and checked first, so that a load that must fail does so before it downloads gigabytes."""


def snapshot(weights: Weights, *, offline: bool) -> Path:
    """The folder of a repository at its revision, with the weight files that a load reads and no other copies.

    Raises UserError if it cannot be fetched, or if its config or tokenizer cannot be loaded.
    """
    folder = fetch(weights, SMALL_FILES, offline=offline)
    if is_adapter(folder):
        return fetch(weights, ADAPTER_FILES, offline=offline)
    if not (folder / CONFIG).is_file():
        return folder
    read_config(folder)
    if not has_tokenizer(folder) and not offline:
        raise UserError(f"The repository {weights.name} has no tokenizer that can be read: choose another release.")
    for name in WEIGHT_NAMES:  # indexes are among the small files
        is_index = name.endswith(".json")
        if is_index and (folder / name).is_file():
            return fetch(weights, shard_names(folder / name), offline=offline)
        if not is_index and not _has_index(folder, name):
            folder = fetch(weights, [name], offline=offline)
            if (folder / name).is_file():
                return folder
    return folder


def _has_index(folder: Path, name: str) -> bool:
    return (folder / f"{name}.index.json").is_file()


def commit(weights: Weights, *, offline: bool) -> str:
    """The commit that the revision of a source stands for; only its config is fetched."""
    return fetch(weights, [CONFIG], offline=offline).name


def fetch(weights: Weights, patterns: Sequence[str], *, offline: bool) -> Path:
    """The folder of a repository, with the files of these names. Raises UserError if the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with reading(f"The repository {weights.name}", "try again, or name a folder with --checkpoint DIR"):
        try:
            found = snapshot_download(
                weights.name,
                revision=weights.revision,
                local_files_only=local_only(offline),
                allow_patterns=list(patterns),
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
            raise missing(weights) from error
        except OSError as error:
            why = reason(error)
            raise UserError(f"{weights.name} cannot be stored ({why}): free space, or set HF_HOME.") from error
    return Path(found)


def missing(weights: Weights) -> UserError:
    """The message for weights that are not on this machine."""
    about = f" ({', '.join(weights.facts)})" if weights.facts else ""
    if weights.kind != "hub":
        return UserError(f"There are no weights in {weights.source}{about}: name their folder with --checkpoint DIR.")
    name, revision = weights.name, f" --revision {weights.revision}" if weights.revision else ""
    accept = f"accept the licence at https://huggingface.co/{name}, log in (`hf auth login`), " if weights.gated else ""
    return UserError(
        f"The weights {name}{about} are not on this machine: {accept}run `hf download {name}{revision}`, "
        "or name a folder that holds them with --checkpoint DIR."
    )
