"""What the tests of bad training input share: the command line of a tiny run, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

METHOD = "method={chunk_size: 64, ratios: [8, 4, 2], lower_layers: 2}"
LAYER = "model.layers.1.mlp.up_proj.weight"
Train = Callable[..., tuple[int, str, str]]
Damage = Callable[[Path], object]


def arguments(base: Path, data: Path, output: Path, *more: str, steps: int = 2) -> list[str]:
    usual = ["--set", METHOD, "--set", "chunks=[2]", "--set", "running=64", "--set", "windows=2"]
    return ["--base", str(base), "--data", str(data), "--output", str(output), "--steps", str(steps), *usual, *more]


def refused(result: tuple[int, str, str], says: str) -> None:
    code, out, last = result
    assert (code, out) == (2, ""), result
    assert says in last, last
    assert len(last) < 700, last


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", {"format": "pt"})

    return damage
