"""Whether weights are on this machine, found out without a request and without a library."""

from __future__ import annotations

import os
from pathlib import Path

from evals.errors import UserError
from evals.methods.presets.model import Weights

WEIGHTS = ("*.safetensors", "*.bin")


def is_here(weights: Weights) -> bool:
    """Whether a package is installed, a folder exists, or the hub's cache has weights at the revision, if one is named.

    Nothing is said about whether they are whole: a load checks that.
    """
    if weights.kind == "hub":
        snapshots = hub_cache() / f"models--{weights.name.replace('/', '--')}" / "snapshots"
        folders = snapshots.glob(weights.revision or "*")
        return any(file.exists() for folder in folders for kind in WEIGHTS for file in folder.glob(kind))
    try:
        folder = weights.folder()
    except UserError:  # the package is not installed
        return False
    return folder is not None and folder.exists()


def hub_cache() -> Path:
    """Where huggingface_hub keeps repositories, by its environment variables."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
