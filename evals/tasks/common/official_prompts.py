"""Official prompt texts, read from the task files of the installed lm-evaluation-harness and checked by hash.

The harness ships the prompts of LongBench and InfiniteBench; this project repairs what differs (white space,
names of slots) and accepts a text only if its sha256 is the one of the benchmark's own repository. lm-eval is
not imported, only its files are read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from evals.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML of lm-eval: `!function module.name` is read as that text, nothing is imported."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def sha256(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def hashes() -> dict[str, Any]:
    """Hashes of the official templates: by benchmark, (InfiniteBench) by family, and by data set."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("prompt_hashes.json").read_text(encoding="utf-8"))
    return found


@cache
def tasks_folder() -> Path:
    """The folder `tasks` of the installed lm-eval. Raises UserError where the package is missing."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "The official prompts come with lm-eval, which is not installed: pip install 'lm-eval>=0.4.13'."
        )
    return Path(spec.submodule_search_locations[0]) / "tasks"


def read_yaml(path: str) -> dict[str, Any] | None:
    """A task file below `lm_eval/tasks`, or None where this version of lm-eval does not have it."""
    file = tasks_folder() / path
    return yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader) if file.is_file() else None


def read_module(path: str) -> ModuleType:
    """A Python file below `lm_eval/tasks` as a module of its own, without the package around it."""
    file = tasks_folder() / path
    if not file.is_file():
        raise UserError(f"The installed {version()} has no file {path}: pip install 'lm-eval==0.4.13'.")
    spec = importlib.util.spec_from_file_location(f"_prompts_of_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version() -> str:
    """The installed lm-eval, for messages."""
    return f"lm-eval {importlib.metadata.version('lm-eval')}"


def check(text: str, expected: str, name: str, source: str) -> str:
    """The text, if its sha256 is the expected one.

    name: of the data set; source: where the text comes from. Raises UserError otherwise.
    """
    if sha256(text) != expected:
        raise UserError(
            f"The prompt of {name} in {source} is not the official one (sha256 {sha256(text)[:12]}, official "
            f"{expected[:12]}): pip install 'lm-eval==0.4.13', or give the official file."
        )
    return text
