"""The base as it was fine-tuned in its own window: its updates are merged, and longer contexts are cut to fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, cast

from baselines.truncated import Truncated
from baselines.window.low_rank import merge_updates
from baselines.window.training import Window, WindowOptions
from evals.methods.base import Runtime
from evals.methods.presets import Preset
from sharedllm.trained_adapter import TrainedRecord


@dataclass(kw_only=True)
class FineTuned(Truncated):
    """`Truncated` over what `sharedllm-train --method window` made of a base; its window is that of the training."""

    @classmethod
    def inspect_adapter(cls, preset: Preset, folder: Path) -> TrainedRecord:
        return Window.inspect(folder)

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        if preset.adapter is None or runtime.random_weights:
            return super().load(preset, runtime)
        # --checkpoint names what was trained; the base stays the preset's
        method = super().load(preset, replace(runtime, checkpoint=None))
        trained = Window.build(method.model, {}, preset.adapter_folder(runtime.checkpoint))
        merge_updates(method.model)
        options = cast(WindowOptions, trained.options)
        stretched = {"rope": options.rope, "factor": options.factor} if options.rope == "yarn" else {}
        window = method.settings.window or trained.window
        method.fairness |= {"window": window, "rank": options.rank, **stretched, "trained": True}
        return method
