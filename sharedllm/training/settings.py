"""Settings of a training run. Presets are YAML files in `presets/`, `small` by default."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharedllm.errors import UserError
from sharedllm.validation import validate

MOST_STEPS = 10**9
MOST = 2**20
Count = Annotated[int, Field(ge=1, le=MOST)]
Running = Annotated[int, Field(ge=2, le=MOST)]
"""Tokens of running text: the first one is no target."""
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=100)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Beta = Annotated[float, Field(ge=0, lt=1)]
MOST_TOKENS = 2**24
"""Tokens that one micro batch may have: beyond it a batch no longer fits a host's memory."""


def check_size(what: str, windows: int, tokens: int) -> None:
    """Raise UserError for a batch of more than MOST_TOKENS."""
    if windows * tokens > MOST_TOKENS:
        raise UserError(
            f"{what}: {windows} windows of {tokens} tokens are more than {MOST_TOKENS}: use fewer, or accumulate."
        )


class NeedleStage(BaseModel):
    """One shape of needle batches and the share of steps that use it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    windows: Count
    chunks: Count
    needles: Annotated[int, Field(ge=1, le=1000)]
    questions: Count
    share: Share
    running: Running | None = Field(None, description="tokens of running text, where not needle_running")

    @model_validator(mode="after")
    def _questions_have_needles(self) -> Self:
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions need as many needles, there are {self.needles}")
        return self


class TrainSettings(BaseModel):
    """Everything that decides what a run learns. Two runs with equal settings and data give equal weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mode: Literal["lm", "sft"] = "lm"
    method: dict[str, Any] = Field(default_factory=dict, description="options of the trained method")
    trainable: list[str] = Field(
        ["cross_attention"],
        min_length=1,
        description="cross_attention, joint_attention, lower, top (upper layers M..N-1)",
    )
    steps: int = Field(2000, ge=1, le=MOST_STEPS)
    windows: Count = Field(
        16, description="LM windows a step (with the first entry of `chunks`; about as many chunks else)"
    )
    chunks: list[Count] = Field([6], min_length=1, max_length=100)
    running: Running = 2048
    gap_share: Share = 0.5
    max_chunks: Count = Field(128, description="chunk positions that gaps reach")
    drop_context: Share = Field(0.0, description="share of LM batches without any context")
    repeat_share: Share = Field(0.0, description="share of LM windows that repeat passages of the context")
    needles: list[NeedleStage] = []
    needle_running: Running = 256
    sft_batch: Count = 8
    sft_max_chunks: Count = 16
    sft_running: Running = 1024
    lr: LearningRate = 3e-3
    lr_base: LearningRate = Field(1e-4, description="learning rate of trained base or lower layers")
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: Rate = 0.0
    clip: float = Field(1.0, gt=0, le=1e6)
    warmup: int = Field(20, ge=0, le=MOST_STEPS)
    final_lr: Rate = 0.02
    accumulate: Count = 1
    seed: int = Field(0, ge=0, le=2**40)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _stages_share_the_steps(self) -> Self:
        if sum(stage.share for stage in self.needles) > 1 + 1e-9:
            raise ValueError("the shares of the needles add up to more than 1")
        return self

    def room(self, stage: NeedleStage) -> int:
        """Tokens of running text in the windows of a stage."""
        return stage.running or self.needle_running


def preset(name: str, /, **changes: Any) -> TrainSettings:
    """The settings of a preset of SharedLLM with some of them changed. Raises UserError as `preset_in`."""
    return preset_in(("sharedllm.training", "presets"), name, changes)


def preset_in(place: tuple[str, str], name: str, changes: Mapping[str, object]) -> TrainSettings:
    """The settings of a preset with some of them changed.

    place: package and folder in it. Raises UserError for an unknown preset or field.
    """
    folder = resources.files(place[0]) / place[1]
    known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    if name not in known:
        raise UserError(f"Unknown training preset '{name}': known are {', '.join(known)}.")
    values = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    own = values.get("method", {})
    if misplaced := {key: value for key, value in changes.items() if key in own}:
        options = yaml.safe_dump({**own, **misplaced}, default_flow_style=True, sort_keys=False, width=1000).strip()
        raise UserError(f'{", ".join(misplaced)}: options of the method go in one setting, --set "method={options}".')
    return validate(TrainSettings, {**values, **changes})
