"""The parts of SharedLLM that the paper varies, read from the settings of a preset."""

from __future__ import annotations

from collections.abc import Mapping

from evals.report.load import Run

Axes = dict[str, object]


def axes(settings: Mapping[str, object]) -> Axes:
    """M, beta, height, injection, policy, key positions and split noise of a preset.

    beta = 1 / sum over levels of (share of the chunk that the level keeps / its ratio): a half, a quarter, ...,
    and both halves on the last level (paper section 3.2).
    """
    found = settings.get("ratios")
    ratios = [r for r in found if isinstance(r, int | float) and r > 0] if isinstance(found, list) else []
    shares = [0.5 ** (level + 1) for level in range(len(ratios))]
    if shares:
        shares[-1] *= 2
    kept = sum(share / ratio for share, ratio in zip(shares, ratios, strict=True))
    return {
        "M": settings.get("lower_layers"),
        "beta": round(1 / kept, 2) if kept else None,
        "height": len(ratios) or None,
        "injection": settings.get("injection"),
        "policy": settings.get("policy"),
        "key_positions": settings.get("key_positions"),
        "split_noise": settings.get("split_noise"),
    }


def variants(run: Run) -> dict[str, str]:
    """The SharedLLM models of a run, each with the parts in which it differs from the first."""
    parts = {name: axes(model.settings) for name, model in run.models.items() if model.method == "sharedllm"}
    reference = next(iter(parts.values()), {})
    return {
        name: ", ".join(f"{k}={v}" for k, v in mine.items() if v != reference[k]) or "default"
        for name, mine in parts.items()
    }
