"""`import sharedllm` makes `model_type: sharedllm` known to transformers' Auto classes, without importing transformers.

`sharedllm.configuration` and `sharedllm.modeling` register themselves as their last act. What is here imports them as
soon as somebody has the Auto classes: at once where transformers has loaded them already, else after it does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AFTER = {
    "transformers.models.auto.configuration_auto": "sharedllm.configuration",
    "transformers.models.auto.modeling_auto": "sharedllm.modeling",
}
"""transformers' modules of the Auto classes, and ours that registers with each."""


class _Then(Loader):
    """Loads a module as its own loader does, then imports ours."""

    def __init__(self, loader: Loader, ours: str) -> None:
        self._loader, self._ours = loader, ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _bring(self._ours)


class _Watch(MetaPathFinder):
    """Waits for the modules in AFTER; every other import passes by."""

    def __init__(self) -> None:
        self._looking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in AFTER or self._looking:
            return None
        self._looking = True
        try:
            spec = find_spec(fullname)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, AFTER[fullname])
        return spec


def _bring(ours: str) -> None:
    """Import ours, unless one of our modules is what made transformers load: ours would find it half imported. Such a
    program has named our modules itself, and whichever it needs registers at its end."""
    if ours not in sys.modules and not any(map(_half_imported, list(sys.modules))):
        import_module(ours)


def _half_imported(name: str) -> bool:
    return name.startswith("sharedllm.") and getattr(sys.modules[name].__spec__, "_initializing", False)


def register() -> None:
    """Have the Auto classes know SharedLLM from now on."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
    for theirs, ours in AFTER.items():
        if theirs in sys.modules:
            _bring(ours)
