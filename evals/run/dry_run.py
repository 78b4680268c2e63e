"""The dry run: what would be run, how many tokens, how much memory, without loading a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evals.errors import UserError
from evals.methods import weights
from evals.run.grid import Cell
from evals.run.identity import ModelChoice


@dataclass(frozen=True)
class Expected:
    """Bytes by arithmetic. kv_token_bytes: one token in a dense KV cache, the upper bound of every method."""

    weight_bytes: int
    kv_token_bytes: int


@dataclass(frozen=True)
class Planned:
    """One row of the plan. samples and tokens are None where no --limit bounds them, memory where no config is."""

    cell: Cell
    samples: int | None
    tokens: int | None
    weight_bytes: int | None
    kv_bytes: int | None


def planned(cells: Sequence[Cell], limit: int | None) -> list[Planned]:
    """The plan of a run, one row per cell."""
    choices = {cell.model.name: cell.model for cell in cells}
    memory = {name: expected_memory(choice) for name, choice in choices.items()}
    rows = []
    for cell in cells:
        expected = memory[cell.model.name]
        tokens = limit * cell.task.task.sample_tokens(cell.length) if limit and cell.length else None
        weight = expected.weight_bytes if expected else None
        kv = expected.kv_token_bytes * cell.length if expected and cell.length else None
        rows.append(Planned(cell, limit, tokens, weight, kv))
    return rows


def expected_memory(choice: ModelChoice) -> Expected | None:
    """Memory of the base model from its shape, or from a config that is on this machine; else, and for a served
    model, None.

    The parameters are counted on torch's meta device, which allocates nothing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from evals.methods.flops import kv_bytes

    preset = choice.preset
    if choice.method.remote:
        return None
    if preset.shape:
        config = weights.shape_config(preset.shape)
    else:
        try:
            folder = weights.resolve(preset.weights, replace(choice.runtime, offline=True), need_weights=False)
            config = weights.causal_config(folder)
        except UserError:
            return None
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())  # type: ignore[no-untyped-call]
    dtype: torch.dtype = getattr(torch, choice.runtime.dtype)
    return Expected(parameters * dtype.itemsize, kv_bytes(config, dtype))
