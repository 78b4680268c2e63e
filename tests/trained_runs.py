"""Training runs of a few steps, for the tests of trained methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sharedllm.training.files import Files
from sharedllm.training.interruption import Interruption
from sharedllm.training.methods import registry
from sharedllm.training.run import Pace, run
from sharedllm.training.settings import preset_in

SMALL = {"windows": 2, "chunks": [2], "running": 64, "needles": [], "repeat_share": 0.0, "steps": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "sharedllm": {"chunk_size": 64, "ratios": [8, 4, 2], "lower_layers": 2},
    "window": {"chunk_size": 64, "rank": 2},
    "beacon": {"chunk_size": 64, "window": 32, "ratios": [2, 4]},
    "cepe": {"chunk_size": 64, "encoder_layers": 1, "encoder_chunk": 48, "same_text": 0.3, "start": "zero"},
    "longllama": {"chunk_size": 64, "window": 48, "mem_layers": [1]},
}


def train(
    name: str, base: Path, texts: Path, output: Path, options: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Train a method for two steps, or as `changes` of the settings say; the summary.

    Other changes: init, max_seconds, heldout.
    """
    trained = registry.method(name)
    init, seconds, held = changes.pop("init", None), changes.pop("max_seconds", None), changes.pop("heldout", [])
    settings = preset_in(trained.presets, trained.preset, {**SMALL, "method": options or OPTIONS[name], **changes})
    files = Files(str(base), [texts / "words.txt"], [], held, init, output)
    return run(settings, files, Pace(1, 1, seconds), Interruption(), trained)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that a run has saved."""
    return {n: t for f in sorted((folder / "adapter").glob("*.safetensors")) for n, t in load_file(f).items()}
