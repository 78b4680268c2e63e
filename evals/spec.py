"""What a person asked for: the run's specification, checked, with every `auto` resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from evals.errors import UserError
from evals.model import Runtime

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]

UNITS = {"k": 1024, "m": 1024 * 1024}


class RunSpec(BaseModel):
    """A grid of tasks, models and lengths, and how to run it.

    settings: `--set` as given, keys still with their `task.` or `model.` prefix. limit, reuse, perf and
    batch_size change how much is measured or how fast, never a sample: they are no part of a cell's identity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[str]
    models: list[str]
    lengths: list[int] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    attn: str = "sdpa"
    random_weights: bool = False
    checkpoint: Path | None = None
    data_dir: Path | None = None
    offline: bool = False
    limit: int | None = None
    batch_size: int = 1
    reuse: bool = True
    perf: bool = True

    def runtime(self) -> Runtime:
        return Runtime(
            device=self.device,
            dtype=self.dtype,
            attn=self.attn,
            random_weights=self.random_weights,
            offline=self.offline,
            checkpoint=str(self.checkpoint) if self.checkpoint else None,
            seed=self.seed,
        )


def split_list(values: Iterable[str]) -> list[str]:
    """Repeated and comma-separated values as one list without repetitions."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def parse_length(text: str) -> int:
    """Tokens from `4096`, `4k` (1k = 1024) or `1m`. Raises UserError for anything else."""
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in UNITS else (text, "")
    try:
        tokens = float(number) * UNITS.get(unit, 1)
    except ValueError:
        tokens = 0.5
    if tokens < 1 or tokens != int(tokens):
        raise UserError(f"--length {text} is not a length: give whole tokens, as 4096 or 4k (1k = 1024).")
    return int(tokens)


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs, the values read as YAML. Raises UserError for a pair that is none."""
    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment} is not key=value: write for instance --set depths=3.")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {key}: the value {value} is not valid YAML.") from error
    return settings


def resolve_runtime(device: str, dtype: str, attn: str) -> dict[str, str]:
    """Device, dtype and kernel with every `auto` decided: a GPU where there is one, bfloat16 there, SDPA.

    Raises UserError for what this machine does not offer.
    """
    import torch

    from evals.weights import check_attention

    has_gpu = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise UserError(f"--device {device}: torch finds no CUDA GPU on this machine; use --device cpu.")
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    if attn == "auto":
        attn = "sdpa"
    if attn == "flash_attention_2":
        if not device.startswith("cuda"):
            raise UserError("--attn flash_attention_2 runs on a CUDA GPU only: use --attn sdpa.")
        check_attention(attn)
    return {"device": device, "dtype": dtype, "attn": attn}
