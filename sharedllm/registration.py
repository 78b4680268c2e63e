"""`import sharedllm` makes `model_type: sharedllm` known to transformers' Auto classes, without importing transformers.

`sharedllm.configuration` and `sharedllm.modeling` register themselves as their last act. The first is imported as soon
as somebody has the Auto classes: at once where transformers has loaded them already, else after it does. The second
follows when a configuration is made, which every use of an Auto class begins with: transformers may load its Auto
classes in the middle of the modules that ours need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AUTO = "transformers.models.auto.configuration_auto"
CONFIGURATION, MODEL = "sharedllm.configuration", "sharedllm.modeling"


class _Then(Loader):
    """Loads a module as its own loader does, then imports our configuration."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _bring_configuration()


class _Watch(MetaPathFinder):
    """Waits for the Auto classes; every other import passes by."""

    def __init__(self) -> None:
        self._looking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO or self._looking:
            return None
        self._looking = True
        try:
            spec = find_spec(fullname)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


def _bring_configuration() -> None:
    """Import it, unless one of our modules is what made transformers load: it would be found half imported. Such a
    program has named our modules itself, and whichever it needs registers at its end."""
    if CONFIGURATION not in sys.modules and not any(map(_half_imported, list(sys.modules))):
        import_module(CONFIGURATION)


def _half_imported(name: str) -> bool:
    return name.startswith("sharedllm.") and getattr(sys.modules[name].__spec__, "_initializing", False)


def bring_model() -> None:
    """Import the model. Where that has begun, because the model makes a configuration, nothing happens."""
    import_module(MODEL)


def register() -> None:
    """Have the Auto classes know SharedLLM from now on."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
    if AUTO in sys.modules:
        _bring_configuration()
