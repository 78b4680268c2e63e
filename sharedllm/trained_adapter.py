"""Adapters of other trained methods than SharedLLM: what was trained, with which options, over which base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import PreTrainedModel

from sharedllm.adapter_files import AdapterRecord, check_there, is_adapter, read_tensors, write_files
from sharedllm.base_identity import check_base, fingerprint, sampled_values
from sharedllm.errors import UserError
from sharedllm.files import read_json
from sharedllm.nn.base_config import text_config
from sharedllm.validation import misfit

CONFIG = "trained_adapter.json"


class TrainedRecord(BaseModel):
    """What `trained_adapter.json` says. options: of the method. tensors: names of the parameters that were trained;
    the other fields are those of `AdapterRecord`."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: Literal[1] = 1
    method: str
    base: str
    base_model_type: str
    base_revision: str | None = None
    base_fingerprint: str
    base_values: dict[str, list[float]]
    options: dict[str, object]
    tensors: list[str]


AnyAdapter = AdapterRecord | TrainedRecord
"""What an adapter of `sharedllm-train` says of itself."""


@dataclass(frozen=True)
class BaseIdentity:
    """Which base it is: taken before a method changes the model."""

    model_type: str
    revision: str | None
    fingerprint: str
    values: dict[str, list[float]]

    @classmethod
    def of(cls, base: PreTrainedModel) -> BaseIdentity:
        """The identity of an untouched base."""
        config = text_config(base.config)
        revision: Any = getattr(base.config, "_commit_hash", None)
        return cls(config.model_type, revision, fingerprint(base), sampled_values(base))


def adapter_method(folder: Path) -> str | None:
    """The method that an adapter was trained for; None where the folder holds none. Raises as `read_trained`."""
    if is_adapter(folder):
        return "sharedllm"
    return read_trained(folder).method if (folder / CONFIG).is_file() else None


def check_method(method: str, folder: Path) -> None:
    """Raise UserError for a folder with the adapter of another method."""
    if (found := adapter_method(folder)) not in (None, method):
        raise UserError(f"The adapter in {folder} is of the method '{found}', not '{method}': name another one.")


def read_trained(folder: Path) -> TrainedRecord:
    """The record of an adapter. Raises UserError where it is missing or damaged."""
    path = folder / CONFIG
    check_there(folder, CONFIG)
    value = read_json(path, "The adapter's")
    try:
        return TrainedRecord.model_validate(value)
    except ValidationError as error:
        found = misfit(error)
        where = found.place or "the whole file"
        raise UserError(f"{path} is not the record of an adapter at {where}: {found.reason}.") from error


def read_of(method: str, folder: Path) -> TrainedRecord:
    """The record of an adapter of `method`. Raises UserError for one of another."""
    check_method(method, folder)
    return read_trained(folder)


def read_for(method: str, folder: Path, base: PreTrainedModel) -> TrainedRecord:
    """The record of an adapter of `method` over an untouched base.

    Raises UserError for one of another method, or of a base with other weights (`check_base`).
    """
    record = read_of(method, folder)
    check_base(base, folder, record.base, record.base_fingerprint, record.base_values, ())
    return record


def write_trained(
    folder: Path,
    method: str,
    base: BaseIdentity,
    base_name: str,
    options: Mapping[str, object],
    tensors: Mapping[str, torch.Tensor],
    shard_bytes: int,
) -> None:
    """Write tensors in bfloat16 with their record."""
    stored = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    record = TrainedRecord(
        method=method,
        base=base_name,
        base_model_type=base.model_type,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        base_values=base.values,
        options=dict(options),
        tensors=list(stored),
    )
    write_files(folder, stored, CONFIG, record.model_dump_json(indent=1) + "\n", shard_bytes)


def lay_over(model: torch.nn.Module, folder: Path, names: list[str]) -> None:
    """Load the tensors `names` of an adapter into a model. Raises UserError as `read_tensors`."""
    model.load_state_dict(read_tensors(folder, dict(model.named_parameters()), names), strict=False)
