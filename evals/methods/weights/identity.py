"""What weights are, as a hash of all bytes that a load reads; torch is not imported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evals.hashing import digest_of, digest_of_file, digest_of_tree
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.presets.model import COMMIT
from evals.methods.tokenizers import TOKENIZER_FILES
from evals.methods.weights import hub, peft_adapter
from evals.methods.weights.checkpoint import ADAPTER_CONFIG, CONFIG, adapter_file, is_adapter, read_config, weight_files
from evals.methods.weights.gguf import CONVERSION
from evals.methods.weights.random import tokenizer_folder
from evals.methods.weights.sources import locate, resolve, resolve_tokenizer


def identity(weights: Weights, runtime: Runtime, shape: Mapping[str, object] | None) -> str:
    """A hash that changes when the weights do.

    Folder: names and all bytes of config, tokenizer and the weight files that are read. GGUF: the file. Hub: the
    commit. PEFT adapter: its files and the identity of its base. Random: shape, seed, the tokenizer that will be
    used, and whether GPUs share the weights, which draws other numbers. `runtime.checkpoint` replaces the source.
    Raises UserError for missing or broken weights.
    """
    if runtime.random_weights:
        folder = tokenizer_folder(weights, runtime)
        text = "bytes" if folder is None else digest_of_tree(folder, _existing(folder, TOKENIZER_FILES))
        spread = ["spread"] if runtime.gpus > 1 else []
        return digest_of(json.dumps(shape, sort_keys=True), str(runtime.seed), text, *spread)
    if runtime.checkpoint is None and weights.kind == "hub":
        pinned = weights.revision and COMMIT.fullmatch(weights.revision)
        return digest_of(weights.name, weights.revision if pinned and weights.revision else _commit(weights, runtime))
    path = locate(weights, runtime)
    if path.is_file():
        return digest_of(digest_of_file(path), CONVERSION)
    return _of_adapter(path, weights, runtime) if is_adapter(path) else _of_folder(resolve(weights, runtime))


def tokenizer_identity(weights: Weights, runtime: Runtime) -> str:
    """A hash of the tokenizer's files alone, for a model that runs elsewhere. Raises UserError where it is missing."""
    folder = resolve_tokenizer(weights, runtime)
    return digest_of_tree(folder, _existing(folder, TOKENIZER_FILES))


def _commit(weights: Weights, runtime: Runtime) -> str:
    return hub.commit(weights, offline=runtime.offline)


def _of_folder(folder: Path) -> str:
    small = _existing(folder, (CONFIG, "generation_config.json", *TOKENIZER_FILES))
    return digest_of_tree(folder, [*small, *weight_files(folder, read_config(folder))])


def _of_adapter(folder: Path, weights: Weights, runtime: Runtime) -> str:
    base = identity(peft_adapter.base_of(folder, weights), replace(runtime, checkpoint=None), None)
    own = adapter_file(folder)
    files = [*_existing(folder, (ADAPTER_CONFIG, *TOKENIZER_FILES)), *([own] if own else [])]
    return digest_of(base, digest_of_tree(folder, files))


def _existing(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
