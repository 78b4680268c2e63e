"""Checkpoints of a training run: written in one move, and checked before a run goes on from one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NotRequired

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from sharedllm.errors import UserError, reading
from sharedllm.files import write_whole
from sharedllm.training.settings import MOST_STEPS
from sharedllm.validation import misfit

FILE = "checkpoint.pt"
Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]


class LogEntry(TypedDict):
    """One line of the log: mean loss of each kind of batch since the line before."""

    step: Count
    loss: dict[str, float]
    grad_norm: float
    tokens_per_s: int


@with_config(ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False))
class Checkpoint(TypedDict):
    """A run after `step` steps. tokens: read so far, missing in older ones. masters: float32 weights by group.
    optimizer: the state dict of AdamW."""

    step: Count
    tokens: NotRequired[Annotated[int, Field(ge=0)]]
    log: list[LogEntry]
    masters: dict[str, list[torch.Tensor]]
    optimizer: dict[str, object]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; a kill or a full disk leaves the one before."""
    write_whole(folder / FILE, lambda partial: torch.save(checkpoint, partial))


def read_checkpoint(folder: Path, device: torch.device) -> Checkpoint | None:
    """The checkpoint of a folder, None without one. Raises UserError for one that is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    advice = "copy it back, or delete it to train from the first step"
    with reading(f"The checkpoint {path}", advice):
        place = device if device.index is not None and device.type != "cpu" else device.type  # torch knows no cpu:0
        stored = torch.load(path, map_location=place, weights_only=True)
    try:
        return TypeAdapter(Checkpoint).validate_python(stored)
    except ValidationError as error:
        found = misfit(error)
        where = found.place or "the whole file"
        raise UserError(f"{path} is not a checkpoint of training ({where}: {found.reason}): {advice}.") from error
