"""Settings of a training run. Presets are YAML files in `presets/`, `small` by default."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class NeedleStage(BaseModel):
    """One shape of needle batches and the share of steps that use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: Count
    chunks: Count
    needles: Count
    questions: Count
    share: Share
    running: Count | None = Field(None, description="tokens of running text, where not needle_running")


class TrainSettings(BaseModel):
    """Everything that decides what a run learns. Two runs with equal settings and data give equal weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["lm", "sft"] = "lm"
    method: dict[str, Any] = Field(default_factory=dict, description="fields of SharedLLMConfig")
    trainable: list[str] = Field(["cross_attention"], description="cross_attention, lower, top (upper layers M..N-1)")
    steps: Count = 2000
    windows: Count = Field(
        16, description="LM windows a step (with the first entry of `chunks`; about as many chunks else)"
    )
    chunks: list[Count] = Field([6], min_length=1)
    running: Count = 2048
    gap_share: Share = 0.5
    max_chunks: Count = Field(128, description="chunk positions that gaps reach")
    drop_context: Share = Field(0.0, description="share of LM batches without any context")
    repeat_share: Share = Field(0.0, description="share of LM windows that repeat passages of the context")
    needles: list[NeedleStage] = []
    needle_running: Count = 256
    sft_batch: Count = 8
    sft_max_chunks: Count = 16
    sft_running: Count = 1024
    lr: float = Field(3e-3, ge=0)
    lr_base: float = Field(1e-4, ge=0, description="learning rate of trained base or lower layers")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    warmup: int = Field(20, ge=0)
    final_lr: float = Field(0.02, ge=0)
    accumulate: Count = 1
    seed: int = Field(0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False


def preset(name: str, /, **changes: Any) -> TrainSettings:
    """The settings of a preset with some of them changed. Raises ValueError for an unknown preset or field."""
    folder = resources.files("sharedllm.training") / "presets"
    known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    if name not in known:
        raise ValueError(f"Unknown training preset '{name}': known are {', '.join(known)}.")
    values = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return TrainSettings.model_validate({**values, **changes})
