"""Models without a preset: a folder, a GGUF file or a hub repository, with a method's default settings."""

from __future__ import annotations

import re
from pathlib import Path

from evals.errors import UserError
from evals.methods.boundary import read_json
from evals.methods.config_fields import longest_input
from evals.methods.presets.model import HUB_NAME, Preset, Weights

DEFAULT_METHOD = "full"
UNTELLING = re.compile(r"(checkpoint|step|epoch)?[-_]?\d*|final|best|last|merged|model|output|adapter|[0-9a-f]{40}")
"""Folder names that need the parent's name to mean anything."""


def is_folder_or_hub(name: str) -> bool:
    """Whether a name can be a folder, a GGUF file or `ORG/NAME` on the hub."""
    return name.startswith("hub:") or "/" in name or _exists(name)


def for_folder_or_hub(name: str, method: str = DEFAULT_METHOD) -> Preset:
    """A preset for a folder, a GGUF file or a hub repository (`ORG/NAME` or `hub:ORG/NAME`), without settings.

    The window comes from a config on this machine. The name is that of the folder or repository, and of a method other
    than dense attention, so that one run may hold several methods over it. Raises UserError for any other name.
    """
    source, folder = _source(name)
    title = _title(Path(source.removeprefix("hub:")) if folder is None else folder)
    return Preset(
        name=title if method == DEFAULT_METHOD else f"{title}-{method}"[-100:],
        method=method,
        description=f"{source}, without a preset",
        weights=Weights(source=source),
        max_context=_window(source, folder),
    )


def _source(name: str) -> tuple[str, Path | None]:
    if _exists(name) and not name.startswith("hub:"):
        return name, Path(name)
    repository = name.removeprefix("hub:")
    if not HUB_NAME.fullmatch(repository) or (repository == name and repository.count("/") != 1):
        raise UserError(
            f"There is no folder {name[:200]}, and it is not the name of a hub repository: name an existing folder, "
            "ORG/NAME, or a preset of `--list`."
        )
    return f"hub:{repository}", None


def _exists(name: str) -> bool:
    try:
        return Path(name).is_dir() or (name.endswith(".gguf") and Path(name).is_file())
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return False


def _title(path: Path) -> str:
    """The last telling part of a path, in the letters that a preset's name may have."""
    full = path if path.parent.name else path.absolute()
    last = full.stem if full.suffix == ".gguf" else full.name
    name = f"{full.parent.name}-{last}" if UNTELLING.fullmatch(last) and full.parent.name else last
    return re.sub(r"[^\w+().-]+", "-", name)[-100:].strip("-") or "model"


def _window(source: str, folder: Path | None) -> int | None:
    """The window, if the config is on this machine; a broken one is reported when the model is loaded."""
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source.removeprefix("hub:"), "config.json")
        config = Path(cached) if isinstance(cached, str) else None
    else:
        config = folder / "config.json" if (folder / "config.json").is_file() else None
    if config is None:
        return None
    try:
        return longest_input(read_json(config))
    except UserError:
        return None
