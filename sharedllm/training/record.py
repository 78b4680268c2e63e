"""`run.json` of a training run: everything that decides what it learns, so that only its own command resumes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sharedllm.adapter_files import CONFIG as ADAPTER
from sharedllm.errors import UserError
from sharedllm.files import read_json, sha256_of, write_text
from sharedllm.trained_adapter import CONFIG as OTHER_ADAPTER
from sharedllm.training.methods.registry import DEFAULT
from sharedllm.validation import misfit

FILE = "run.json"


class RunRecord(BaseModel):
    """What was asked for, and the hash of every byte that is read.

    method: what is trained. settings: of TrainSettings, as JSON. data: training files in the order of the command.
    hashes: sha256 of each file of `data`. init: files of the adapter to start from. base_weights: see `weights_hash`.
    processes: that train together, each with batches of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    method: str = DEFAULT
    settings: dict[str, object]
    base: str
    base_weights: str
    data: list[str]
    hashes: list[str]
    weights: list[float]
    init: dict[str, str] | None
    processes: int = 1


def printable(path: Path | str) -> str:
    """A path as text that any file can hold: bytes that are not UTF-8 are written as \\udc.."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def init_hashes(folder: Path | None) -> dict[str, str] | None:
    """Hashes of the files of an adapter."""
    if folder is None:
        return None
    records = [folder / name for name in (ADAPTER, OTHER_ADAPTER)]
    files = sorted([*folder.glob("adapter-*.safetensors"), *(path for path in records if path.is_file())])
    return {file.name: sha256_of(file) for file in files}


def read_record(folder: Path) -> RunRecord | None:
    """The record in an output folder; None where there is none.

    Raises UserError for one that is damaged, of another program or of an earlier version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    stored = read_json(path, "The record")
    if isinstance(stored, dict) and {"settings", "base", "data", "init"} <= stored.keys() and "hashes" not in stored:
        raise UserError(f"{folder} holds a run of an earlier version, without hashes of data: choose another --output.")
    try:
        return RunRecord.model_validate(stored)
    except ValidationError as error:
        found = misfit(error)
        raise UserError(
            f"{path} is not the record of a training run ({found.place or 'the whole file'}: {found.reason}): "
            "choose another --output."
        ) from error


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `run.json` in one move."""
    write_text(folder / FILE, json.dumps(record.model_dump(), indent=1) + "\n")


def check_same_run(folder: Path, stored: RunRecord, now: RunRecord) -> None:
    """Raise UserError where a folder holds another run, naming what differs. Only `steps` may change."""
    if stored.method != now.method:
        raise UserError(
            f"{folder} holds a run of the method '{stored.method}', not '{now.method}': choose another --output."
        )
    if stored.data == now.data and len(stored.hashes) == len(now.hashes):
        for name, was, found in zip(now.data, stored.hashes, now.hashes, strict=True):
            if was != found:
                raise UserError(
                    f"{name} has changed since the run in {folder} began: put it back, or choose another --output."
                )
    settings = {**stored.settings, "steps": now.settings["steps"]}
    changed = [key for key in now.settings if settings.get(key) != now.settings[key]]
    changed += [
        key
        for key in ("base", "base_weights", "data", "hashes", "weights", "init", "processes")
        if getattr(stored, key) != getattr(now, key)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with other settings or data: choose another --output "
            f"(what differs: {', '.join(changed)})."
        )
