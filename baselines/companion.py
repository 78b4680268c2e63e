"""A model beside the base: the embedder of a retrieval, the compressor of a prompt."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from evals.errors import UserError
from evals.methods.presets import Weights
from evals.methods.weights.sources import package_path


def companion(source: str) -> Weights:
    """The weights that `package:NAME/FOLDER`, a folder, or `hub:ORG/NAME` stands for, which may end in `@REVISION`.
    Raises UserError for anything else."""
    name, at, revision = source.partition("@") if source.startswith("hub:") else (source, "", "")
    try:
        return Weights(source=name, revision=revision if at else None)
    except ValidationError as error:
        raise UserError(f"'{source}' names no model: write package:NAME/FOLDER, hub:ORG/NAME or a folder.") from error


def companion_folder(source: str) -> Path | None:
    """Where the model of a package or folder lies; None for one of the hub. Raises UserError where there is none."""
    weights = companion(source)
    if weights.kind == "hub":
        return None
    folder = package_path(weights.name) if weights.kind == "package" else weights.folder()
    if folder is None or not folder.exists():
        raise UserError(f"There is no model in {source}: name an existing folder.")
    return folder


def companion_files(source: str) -> list[Path]:
    """What decides what the model computes; none for one of the hub, which its name and revision stand for."""
    folder = companion_folder(source)
    return [] if folder is None else [folder]
