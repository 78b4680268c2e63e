"""The files of an adapter: its record and its tensors, and the adapters that come with this package."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sharedllm.errors import UserError, shown
from sharedllm.files import read_json, write_text, write_whole, writing
from sharedllm.settings import DEFAULTS, FIXED, check_settings, check_together
from sharedllm.validation import misfit

CONFIG = "sharedllm_adapter.json"
BASE = "base."
OWN = ("cross_attention.", "joint_attention.", "lower.")
"""Prefixes of the parameters that an adapter always holds."""
DTYPES = ("BF16", "F16", "F32", "F64")
"""Types of an adapter's tensors, by their names in safetensors files."""
SHIPPED = Path(__file__).with_name("checkpoints")
"""Adapters that come with this package, one folder each. What is known about their bases stands beside the folders, in
NAME.base.json for the base ORG/NAME: cell ids hash the files in a folder."""


class ShippedBase(BaseModel):
    """The base of shipped adapters. revision: the hub's commit of it. copy_name: name of the folder in the cache that
    holds the copy which the harness makes of the demo weights. values: see `sharedllm.base_identity`."""

    model_config = ConfigDict(frozen=True, strict=True)

    revision: str
    copy_name: str
    values: dict[str, list[float]]


class AdapterRecord(BaseModel):
    """What `sharedllm_adapter.json` says.

    base: what people call the base; base_revision: its commit on the hub, where it came from there.
    base_fingerprint, base_values: see `sharedllm.base_identity`. settings: fields of `MethodFields`; those that are
    younger than the adapter have their defaults. trained_base_parameters: names with the prefix `base.`.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    format: Literal[1]
    base: str
    base_model_type: str
    base_revision: str | None = None
    base_fingerprint: str
    base_values: dict[str, list[float]] = {}  # a declaration: pydantic copies it
    settings: dict[str, object]
    trained_base_parameters: list[str]


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter (and not a full model)."""
    return (Path(folder) / CONFIG).is_file()


def check_there(folder: Path, config: str) -> None:
    """Raise UserError for a folder without the record `config` of an adapter, naming a run's folder that has one."""
    if not (folder / config).is_file():
        inside = folder / "adapter"
        hint = f" itself: name {inside}" if (inside / config).is_file() else ": name one that sharedllm-train has made"
        raise UserError(f"There is no adapter in {folder}{hint} (no {config}).")


def read_record(folder: Path) -> AdapterRecord:
    """The checked record of an adapter. Raises UserError that names the file and the field that does not fit."""
    path = folder / CONFIG
    check_there(folder, CONFIG)
    value = read_json(path, "The adapter's")
    try:
        record = AdapterRecord.model_validate(value)
    except ValidationError as error:
        found = misfit(error)
        where = found.place or "the whole file"
        raise UserError(f"{path} is not the record of an adapter at {where}: {found.reason}.") from error
    try:
        check_settings(record.settings)
    except UserError as error:
        raise UserError(f"{path} does not fit: {error}") from error
    if folder.parent == SHIPPED:
        base = shipped_base(record.base)
        record = record.model_copy(update={"base_revision": base.revision, "base_values": base.values})
    return record


def shipped_names() -> list[str]:
    """Names of the adapters that come with this package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def shipped_base(name: str) -> ShippedBase:
    """What is known about the base of a shipped adapter. name: ORG/NAME, from the adapter's record."""
    path = SHIPPED / f"{name.rsplit('/', 1)[-1]}.base.json"
    return ShippedBase.model_validate_json(path.read_text(encoding="utf-8"))


def adapter_settings(folder: str | Path) -> dict[str, object]:
    """Settings that an adapter was trained with. Raises UserError as `read_record`."""
    return read_record(Path(folder)).settings


def check_fixed(
    folder: Path, trained: Mapping[str, object], asked: Mapping[str, object], fixed: Collection[str]
) -> None:
    """Refuse options that an adapter's weights depend on where others are asked for than it was trained with.

    trained, asked: options by name. fixed: those that matter. Raises UserError that names the first one.
    """
    for name in fixed:
        if asked[name] != trained[name]:
            own = shown(trained[name])
            raise UserError(
                f"{name} is {shown(asked[name])}, but the weights of the adapter in {folder} were trained with {own} "
                f"and depend on it: use {own}, or another adapter."
            )


def settings_over(folder: Path, record: AdapterRecord, changes: Mapping[str, object]) -> dict[str, Any]:
    """All settings of an adapter, some of them changed.

    Raises UserError for a change of those in FIXED, and for settings out of range or that do not fit each other.
    """
    own = {**DEFAULTS, **record.settings}
    chosen = {**own, **changes}
    check_settings(chosen)
    check_fixed(folder, own, chosen, FIXED)
    check_together(chosen)
    return chosen


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], record: AdapterRecord, shard_bytes: int) -> None:
    """Write an adapter of SharedLLM."""
    write_files(folder, tensors, CONFIG, record.model_dump_json(indent=1) + "\n", shard_bytes)


def write_files(folder: Path, tensors: Mapping[str, torch.Tensor], config: str, record: str, shard_bytes: int) -> None:
    """Write tensors in files of at most `shard_bytes` and the record, a text for the file `config`.

    The record comes last, so that a folder that was not finished is not taken for an adapter.
    """
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    with writing(folder):
        for old in (folder / config, *folder.glob("adapter-*.safetensors")):
            old.unlink(missing_ok=True)
    for i, shard in enumerate(shards):
        path = folder / f"adapter-{i + 1:02d}-of-{len(shards):02d}.safetensors"
        write_whole(path, partial(save_file, shard))
    write_text(folder / config, record)


def read_tensors(folder: Path, places: Mapping[str, nn.Parameter], trained: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors of an adapter for a model with the parameters `places`.

    trained: parameters of the base that the record lists. Raises UserError that names the tensor where one is
    missing, not listed, of another shape or not finite, and the file where one is missing or damaged.
    """
    expected = {n for n in places if n.startswith(OWN)} | set(trained)
    if homeless := sorted(set(trained) - set(places)):
        raise UserError(f"The adapter in {folder} trained {homeless[0]}, which this base does not have.")
    _check_names(folder, tensor_names(folder), expected)
    weights: dict[str, torch.Tensor] = {}
    for file in _files(folder):
        with _whole(file):
            weights |= load_file(file)
    for name, tensor in weights.items():
        if tensor.shape != places[name].shape:
            sizes = f"{list(tensor.shape)}, the model wants {list(places[name].shape)}"
            raise UserError(f"The adapter in {folder} has {name} of shape {sizes}: it belongs to another base.")
        if not bool(tensor.isfinite().all()):
            raise UserError(f"The adapter in {folder} has values in {name} that are not finite: train it again.")
    return weights


def tensor_names(folder: Path) -> set[str]:
    """Names of an adapter's tensors by the headers of its files. Raises UserError for a file that is missing or damaged
    and for a tensor that is there twice or in a form that no training writes."""
    names: set[str] = set()
    for file in _files(folder):
        with _whole(file), safe_open(file, "pt") as stored:
            found = {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118  # no mapping
        if twice := sorted(found.keys() & names):
            raise UserError(f"{file} holds {twice[0]} once more: copy the adapter's folder again.")
        if odd := sorted(name for name, dtype in found.items() if dtype not in DTYPES):
            raise UserError(f"{file} holds {odd[0]} as {found[odd[0]]}: save it as {', '.join(DTYPES)}.")
        names |= found.keys()
    return names


def check_files(folder: Path, trained: Collection[str], settings: Mapping[str, Any] | None = None) -> None:
    """What `read_tensors` checks, as far as headers tell, where there is no model yet. Raises UserError as it does.

    settings: of an adapter of SharedLLM: how many layers read and how.
    """
    names = tensor_names(folder)
    own = {name for name in names if name.startswith(OWN)}
    _check_names(folder, names, {*trained, *(own if settings is None else _own_names(own, settings))})


def _own_names(found: Collection[str], settings: Mapping[str, Any]) -> set[str]:
    """Names that an adapter of SharedLLM must have, if each layer that reads has what another one has."""
    readers = f"{settings['attention']}_attention."
    count = settings["lower_layers"] - (settings["injection_start"] if settings["injection"] == "bottom" else 0)
    parts = {name.removeprefix(readers).partition(".")[2] for name in found if name.startswith(readers)}
    layers = [f"{readers}{i}" for i in range(count)]
    lower_names = {name for name in found if name.startswith("lower.")} if settings["own_lower"] else set()
    return {f"{layer}.{part}" for layer in layers for part in parts} | lower_names if parts else {*layers, *lower_names}


def _check_names(folder: Path, found: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - found):
        raise UserError(f"The adapter in {folder} lacks {missing[0]}: check its files and its settings.")
    if unexpected := sorted(found - expected):
        raise UserError(
            f"The adapter in {folder} has weights this model has no place for: {', '.join(unexpected[:3])}."
        )


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}): copy it again.") from error


def _files(folder: Path) -> list[Path]:
    """Files 1 to n of n. Raises UserError that names the one which is missing."""
    files = sorted(folder.glob("adapter-*.safetensors"))
    if not files:
        raise UserError(f"The adapter in {folder} has no adapter-*.safetensors: copy the whole folder.")
    count = re.fullmatch(r"adapter-\d+-of-(\d{1,6})\.safetensors", files[0].name)
    if count is None:
        raise UserError(f"{shown(str(files[0]))} is not named adapter-NN-of-NN.safetensors: copy the folder again.")
    total = int(count[1])
    wanted = [f"adapter-{i + 1:02d}-of-{total:02d}.safetensors" for i in range(min(total, len(files) + 1))]
    for file, name in zip([*files, None], wanted, strict=False):
        if file is None or file.name != name:
            raise UserError(f"The adapter in {folder} has no {name}: copy the whole folder.")
    if len(files) > total:
        raise UserError(f"The adapter in {folder} has files of another one, {files[-1].name}: remove them.")
    return files
