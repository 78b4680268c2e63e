"""Checks on a checkpoint folder that need no weights: a broken one fails here, early and in one sentence."""

from __future__ import annotations

import codecs
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from evals.errors import UserError
from evals.methods.boundary import AGAIN, LFS_POINTER, Plain, lfs_pointer, read_json
from evals.methods.config_fields import check_fields
from evals.methods.tokenizers import TOKENIZER_FILES
from sharedllm.errors import reading

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers looks for, in its order; an index names shards."""
LARGEST_HEADER = 100_000_000
"""The limit of the safetensors format."""


def read_config(folder: Path) -> dict[str, Plain]:
    """The checked fields of a folder's config.json.

    Raises UserError where there is none (naming a folder below that has one), or where no model can be built from it.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(no_model(folder))
    _check_text(folder)
    fields = read_json(path)
    if not isinstance(fields.get("model_type"), str):
        raise UserError(f"{path} names no model_type: it is not the config of a transformers model.")
    check_fields(fields, str(path))
    return fields


def _check_text(folder: Path) -> None:
    """The libraries report Git-LFS pointers and byte-order marks as JSON errors, which helps nobody."""
    for name in (CONFIG, "generation_config.json", *TOKENIZER_FILES):
        path = folder / name
        if path.is_file():
            with reading(path, AGAIN), path.open("rb") as stream:
                head = stream.read(len(LFS_POINTER))
            if head == LFS_POINTER:
                raise UserError(lfs_pointer(path))
            if head.startswith(codecs.BOM_UTF8):
                raise UserError(f"{path} begins with a byte-order mark: save it as UTF-8 without one.")


def weight_files(folder: Path, config: Mapping[str, Plain] | None = None) -> list[Path]:
    """The weight files that a load reads, the index first; empty if there are none.

    config: the folder's, which may name another file (`transformers_weights`). Raises UserError for an index that is
    not one, and for shards that are not there.
    """
    named = (config or {}).get("transformers_weights")
    names = (named,) if isinstance(named, str) else WEIGHT_NAMES
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return []
    if path.suffix != ".json":
        return [path]
    shards = shard_names(path)
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(shards)} weight files are missing in {folder} (the first is {missing[0]}): "
            "download the checkpoint again."
        )
    return [path, *(folder / name for name in shards)]


def shard_names(index: Path) -> list[str]:
    """The files that an index names, sorted. Raises UserError for an index that is not one."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} has no weight_map: {AGAIN}.")
    shards = sorted({name for name in names.values() if isinstance(name, str)})
    if any(not isinstance(name, str) for name in names.values()) or any(Path(name).name != name for name in shards):
        raise UserError(f"{index} names files outside its folder: {AGAIN}.")
    return shards


def check_weight_files(files: list[Path]) -> None:
    """Raises UserError for a weight file that is empty, truncated or a Git-LFS pointer."""
    for path in files:
        if path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix != ".json":
            _check_bin(path)


def adapter_file(folder: Path) -> Path | None:
    """The weights of a PEFT adapter in a folder."""
    return next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter. Raises UserError if it also holds a model."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    if any((folder / name).is_file() for name in WEIGHT_NAMES):
        raise UserError(f"{folder} holds a model and a PEFT adapter: move {ADAPTER_CONFIG} and its weights elsewhere.")
    return True


def no_model(folder: Path) -> str:
    """The message for a path that is not a checkpoint folder."""
    if folder.is_file():
        return f"{folder} is a file: name the folder that holds it and its config.json."
    if not folder.is_dir():
        return f"There is no model in {folder}: a folder with config.json and *.safetensors is needed."
    if (adapter := next((path for path in (folder, folder / "adapter") if _is_trained(path)), None)) is not None:
        return (
            f"{folder} holds what sharedllm-train made of a base, not a model: name a preset of its method and "
            f"--checkpoint {adapter}."
        )
    for below in ("*", "*/*", "*/*/*"):  # a hub cache has snapshots/COMMIT
        found = sorted(path.parent for path in folder.glob(f"{below}/{CONFIG}"))
        if found:
            more = f" (or one of {len(found) - 1} others)" if len(found) > 1 else ""
            return f"There is no model in {folder} itself: name {found[0]}{more}."
    if (folder / "params.json").is_file():
        return f"{folder} holds weights in Meta's own format: convert them to transformers' format."
    return f"There is no model in {folder}: a folder with config.json and *.safetensors is needed."


def _is_trained(folder: Path) -> bool:
    """Whether a folder holds an adapter of `sharedllm-train`."""
    from sharedllm import adapter_files, trained_adapter  # here, because torch is not needed for most folders

    return any((folder / module.CONFIG).is_file() for module in (adapter_files, trained_adapter))


def _check_safetensors(path: Path) -> None:
    with reading(path, AGAIN):
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
            if head == LFS_POINTER[:8]:
                raise UserError(lfs_pointer(path))
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(size - 8, LARGEST_HEADER):
                raise UserError(f"{path} is not a whole safetensors file ({size:,} bytes): {AGAIN}.")
            tensors = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise UserError(f"{path} has {size:,} bytes, not the {expected:,} that its header names: {AGAIN}.")


def _check_bin(path: Path) -> None:
    with reading(path, AGAIN), path.open("rb") as stream:
        head = stream.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise UserError(lfs_pointer(path))
    # torch has written zip files since 1.6. The directory is at the end, so a truncated file has none.
    if not head or (head[:2] == b"PK" and not zipfile.is_zipfile(path)):
        raise UserError(f"{path} is truncated ({path.stat().st_size:,} bytes): {AGAIN}.")
