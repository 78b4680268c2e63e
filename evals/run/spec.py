"""What a person asked for: the run's specification, checked, with every `auto` resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evals.errors import UserError
from evals.methods.base import Runtime

MAX_LENGTH = 1 << 24
"""Tokens; beyond what any method or data set is made for, and within what one machine can draw or read."""
UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


class Device(StrEnum):
    """Values of --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DType(StrEnum):
    """Values of --dtype."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Attention(StrEnum):
    """Values of --attn."""

    auto = "auto"
    sdpa = "sdpa"
    flash_attention_2 = "flash_attention_2"
    eager = "eager"


class Logger(StrEnum):
    """Values of --log."""

    trackio = "trackio"


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
    attn_fallback: str | None = None
    kernels: tuple[str, ...] = ()
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
            attn_fallback=self.attn_fallback,
            kernel_order=self.kernels,
            random_weights=self.random_weights,
            offline=self.offline,
            checkpoint=str(self.checkpoint) if self.checkpoint else None,
            seed=self.seed,
        )


def split_list(values: Iterable[str]) -> list[str]:
    """Repeated and comma-separated values as one list without repetitions."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def parse_length(text: str) -> int:
    """Tokens from `4096`, `4k` (1k = 1024) or `1m`. Raises UserError for anything else, and beyond MAX_LENGTH."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([km]?)", text.lower())
    tokens = float(match[1]) * UNITS[match[2]] if match else 0.0
    if tokens < 1 or not tokens.is_integer():
        raise UserError(f"--length {text} is not a length: give whole tokens, as 4096 or 4k (1k = 1024).")
    if tokens > MAX_LENGTH:
        raise UserError(
            f"--length {text} is more than {MAX_LENGTH:,} tokens, the most that this harness runs: ask for less."
        )
    return int(tokens)


def resolve_runtime(device: Device, dtype: DType, attn: Attention) -> dict[str, Any]:
    """Fields of a Runtime with every `auto` decided: a GPU where there is one, bfloat16 there, SDPA with the order of
    back ends that was measured to be the fastest on that device (`sdpa` by name keeps torch's own order).

    Raises UserError for what this machine does not offer.
    """
    import torch

    from evals.methods.kernels import fastest
    from evals.methods.weights import check_attention

    gpu = torch.cuda.is_available()
    if device is Device.auto:
        device = Device.cuda if gpu else Device.cpu
    if device is Device.cuda and not gpu:
        raise UserError("--device cuda: torch finds no CUDA GPU on this machine; use --device cpu.")
    if dtype is DType.auto:
        dtype = DType.bfloat16 if device is Device.cuda else DType.float32
    kernels: tuple[str, ...] = ()
    fallback = None
    if attn is Attention.auto:
        attn, kernels, fallback = Attention.sdpa, fastest(device.value), Attention.eager.value
    if attn is Attention.flash_attention_2:
        if device is Device.cpu:
            raise UserError("--attn flash_attention_2 runs on a CUDA GPU only: use --attn sdpa.")
        check_attention(attn)
    return {
        "device": device.value,
        "dtype": dtype.value,
        "attn": attn.value,
        "attn_fallback": fallback,
        "kernels": kernels,
    }


def runtime_from(decided: dict[str, Any], **fields: Any) -> Runtime:
    """The Runtime of what `resolve_runtime` has decided. fields: the others that it has."""
    known = {name: value for name, value in decided.items() if name != "kernels"}
    return Runtime(**known, kernel_order=decided["kernels"], **fields)
