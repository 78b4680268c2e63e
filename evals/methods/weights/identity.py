"""What weights are, as a hash of all bytes that a load reads; torch is not imported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.hashing import digest_of, digest_of_file, digest_of_tree
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.tokenizers import TOKENIZER_FILES
from evals.methods.weights.gguf import CONVERSION
from evals.methods.weights.random import tokenizer_folder
from evals.methods.weights.sources import commit, package_path, resolve, weight_files


def identity(weights: Weights, runtime: Runtime, shape: Mapping[str, Any] | None) -> str:
    """A hash that changes when the weights do.

    Folder: names and all bytes of config, tokenizer and the weight files that are read. Package: the GGUF file. Hub:
    the commit. Random: shape, seed and the tokenizer that will be used.
    """
    if runtime.random_weights:
        folder = tokenizer_folder(weights, runtime)
        text = "bytes" if folder is None else digest_of_tree(folder, _existing(folder, TOKENIZER_FILES))
        return digest_of(json.dumps(shape, sort_keys=True), str(runtime.seed), text)
    kind, _, name = weights.source.partition(":")
    if runtime.checkpoint is None and kind == "hub":
        known = weights.revision and re.fullmatch(r"[0-9a-f]{40}", weights.revision)
        return digest_of(name, weights.revision if known and weights.revision else commit(weights, runtime))
    path = package_path(name) if runtime.checkpoint is None and kind == "package" else resolve(weights, runtime)
    if path.is_file():
        return digest_of(digest_of_file(path), CONVERSION)
    configs = _existing(path, ("config.json", "generation_config.json", *TOKENIZER_FILES))
    return digest_of_tree(path, [*configs, *weight_files(path)])


def _existing(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
