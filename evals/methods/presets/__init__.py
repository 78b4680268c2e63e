"""Model presets: one YAML file for each model, in this folder or named by the user; and models without one."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from evals.errors import UserError, unknown, unreadable
from evals.methods.presets.model import Preset, Weights
from evals.methods.presets.unnamed import DEFAULT_METHOD, for_folder_or_hub, is_folder_or_hub
from sharedllm import plain_yaml
from sharedllm.errors import reason
from sharedllm.validation import misfit

__all__ = ["Preset", "Weights", "for_folder_or_hub", "is_unnamed", "load_preset", "names"]

MAX_BYTES = 1 << 18
"""A preset has a page or two."""


def names() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files(__name__).iterdir() if f.name.endswith(".yaml"))


def is_unnamed(name: str) -> bool:
    """Whether a model is given as a folder or hub repository, not as a preset or preset file."""
    return not name.endswith((".yaml", ".yml")) and name not in names() and is_folder_or_hub(name)


def load_preset(name: str, method: str = DEFAULT_METHOD) -> Preset:
    """The preset of that name, the one in the YAML file of that path, or one made for a folder or hub repository.

    method: of a folder or repository; a preset has its own.
    Raises UserError for an unknown name (with the nearest ones), an unreadable file or a field that does not fit.
    """
    if name.endswith((".yaml", ".yml")):
        return _parse(_read(Path(name)), name)
    if name in names():
        return _parse((resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"), name)
    if is_unnamed(name):
        try:
            return for_folder_or_hub(name, method)
        except ValidationError as error:
            raise _misfit(error, name) from error
    raise unknown("model", name[:100], names(), "--list")


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise UserError(f"There is no preset file {path}: name an existing YAML file or a preset of `--list`.")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"The preset file {path} has more than {MAX_BYTES // 1024} KiB: name another file.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def _parse(text: str, name: str) -> Preset:
    try:
        fields = plain_yaml.load(text)
    except ValueError as error:
        raise UserError(f"The preset {name} cannot be read: {reason(error)}.") from error
    try:
        return Preset.model_validate(fields)
    except ValidationError as error:
        raise _misfit(error, name) from error


def _misfit(error: ValidationError, name: str) -> UserError:
    found = misfit(error)
    return UserError(f"The preset {name!a:.200} does not fit at {found.place or 'the file'}: {found.reason}.")
