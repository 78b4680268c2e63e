"""Checks that a checkpoint has exactly the weights of its model: missing ones would be initialised at random."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

from evals.errors import UserError

HARMLESS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.((masked_)?bias|causal_mask))$")
"""Buffers that older releases stored and that models compute."""
PREFIXES = ("module.", "_orig_mod.", "model._orig_mod.", "base_model.model.")
"""What wrappers (DataParallel, torch.compile, PEFT) put before the names."""


class LoadingInfo(TypedDict):
    """What transformers says about a load. mismatched_keys: name, shape in the file, shape in the model."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]]
    error_msgs: Collection[str]


def check_keys(folder: Path, info: LoadingInfo) -> None:
    """Raises UserError with the names of missing, unexpected or mis-shaped weights."""
    unexpected = sorted(key for key in info["unexpected_keys"] if not HARMLESS.search(key))
    problems = []
    if info["mismatched_keys"]:
        name, found, expected = min(info["mismatched_keys"])
        more = _more(len(info["mismatched_keys"]))
        problems.append(f"{name} has the shape {list(found)}, not {list(expected)} as its config says{more}")
    if info["missing_keys"]:
        problems.append(f"it lacks {_some(info['missing_keys'])}")
    if unexpected:
        problems.append(f"it has {_some(unexpected)}, which the model does not have")
    if info["error_msgs"]:
        problems.append(" ".join(min(info["error_msgs"]).split())[:200])
    if not problems:
        return
    prefix = next((p for p in PREFIXES if unexpected and all(key.startswith(p) for key in unexpected)), None)
    advice = f"remove the prefix '{prefix}' from the names" if prefix else "name a complete one, or correct config.json"
    raise UserError(f"The checkpoint in {folder} does not fit its model: {'; '.join(problems)}. Fix: {advice}.")


def _some(keys: Collection[str]) -> str:
    first = sorted(keys)[:3]
    return f"{', '.join(first)}{_more(len(keys) - len(first), 'more')}"


def _more(count: int, word: str = "in all") -> str:
    return f" ({count} {word})" if count > (word == "in all") else ""
