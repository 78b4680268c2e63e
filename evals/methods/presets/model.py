"""The fields of a preset and their valid values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from evals.errors import UserError
from evals.methods.boundary import check_finite
from evals.methods.config_fields import check_fields
from evals.methods.packages import package_folder

HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
"""`ORG/NAME`, or the name alone of the oldest models."""
PACKAGE = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_PATH = 4000
LONGEST_NAME = 255
LONGEST_WINDOW = 1 << 31
"""Tokens."""
GPUS = "gpus"
"""The field that `--set` replaces besides settings."""
MOST_GPUS = 64
"""Of one machine."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has control characters, line breaks or invisible marks")
    return text


def _plain_name(text: str) -> str:
    if not re.search(r"\w", text) or re.search(r"[\[\]/\\,<>|:*?\"']", text):
        raise ValueError("a name is letters, digits, spaces, - _ + ( ) and .")
    return _one_line(text)


Line = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_one_line)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_plain_name)]


class Weights(BaseModel):
    """Where weights come from, and what to tell a person who does not have them.

    source: `package:NAME` (an installed Python package), `hub:ORG/NAME` or a folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Line
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]{0,200}$")] | None = None
    size: Line | None = Field(default=None, description="download size, for people: '13 GB'")
    licence: Line | None = None
    gated: bool = Field(default=False, strict=True)

    @field_validator("source")
    @classmethod
    def _form(cls, source: str) -> str:
        kind, colon, name = source.partition(":")
        if colon and kind == "hub":
            if not HUB_NAME.fullmatch(name) or len(name) > 96 or ".." in name or "--" in name:
                raise ValueError(f"'{name[:100]}' is not the name of a hub repository: write hub:ORG/NAME")
        elif colon and kind == "package":
            package, *inside = name.split("/")
            if not PACKAGE.fullmatch(package) or ".." in inside:
                raise ValueError(f"'{name[:100]}' is not a package, or a folder in one: write package:NAME")
        elif not source.strip() or len(source) > LONGEST_PATH or max(map(len, source.split("/"))) > LONGEST_NAME:
            raise ValueError("it is empty, or too long for the path of a folder")
        return source

    @property
    def kind(self) -> str:
        """`package`, `hub` or `folder`."""
        kind, colon, _ = self.source.partition(":")
        return kind if colon and kind in ("package", "hub") else "folder"

    @property
    def name(self) -> str:
        """The source without its kind."""
        return self.source if self.kind == "folder" else self.source.partition(":")[2]

    @property
    def facts(self) -> list[str]:
        """What to know before a download: size, licence, whether it is gated and whether it may change."""
        pinned = self.kind != "hub" or COMMIT.fullmatch(self.revision or "")
        found = (self.size, self.licence, "gated" if self.gated else None, None if pinned else "no commit pinned")
        return [fact for fact in found if fact]

    def folder(self) -> Path | None:
        """Where a package's folder or a folder lies, whether or not it is there; None for the hub.

        Raises UserError for a package that is not installed.
        """
        if self.kind == "hub":
            return None
        if self.kind == "folder":
            return Path(self.source)
        package, _, inside = self.name.partition("/")
        return package_folder(package) / inside


class Preset(BaseModel):
    """A method, its weights and its settings under a name.

    method: key of the method registry. settings: validated by the method. adapter: trained parts that are laid
    over the base. shape: config of the base for --random-weights (`model_type` and its fields). max_context: tokens
    that the method was made for; by default what the base's config says. gpus: of one machine, over which the weights
    are spread.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    method: Name
    description: Line
    weights: Weights
    adapter: Weights | None = None
    settings: dict[str, object] = Field(default_factory=dict)
    shape: dict[str, object] | None = None
    max_context: Annotated[int, Field(strict=True, gt=0, le=LONGEST_WINDOW)] | None = None
    gpus: Annotated[int, Field(strict=True, ge=1, le=MOST_GPUS)] = 1

    @field_validator("settings", "shape")
    @classmethod
    def _finite(cls, values: dict[str, object] | None) -> dict[str, object] | None:
        check_finite(values)
        return values

    @field_validator("shape")
    @classmethod
    def _possible(cls, shape: dict[str, object] | None) -> dict[str, object] | None:
        if shape is not None:
            if not isinstance(shape.get("model_type"), str):
                raise ValueError("model_type is not the name of a model family")
            if "quantization_config" in shape:
                raise ValueError("random weights are not quantised: leave quantization_config out")
            check_fields(shape, "its fields")
        return shape

    def adapter_folder(self, checkpoint: str | None) -> Path:
        """Where the trained parts lie: in `checkpoint`, else where the preset says; a UserError if nowhere."""
        assert self.adapter is not None
        folder = Path(checkpoint) if checkpoint else self.adapter.folder()
        if folder is None or not folder.is_dir():
            raise UserError(
                f"The adapter of {self.name} is not at {folder}: put one there that sharedllm-train has made, name its "
                "folder with --checkpoint, or use --random-weights to measure memory and latency alone."
            )
        return folder

    def override(self, settings: Mapping[str, object]) -> Preset:
        """The same preset with some settings replaced (`--set key=value`). `gpus` is a field of its own.

        Raises UserError for a number of GPUs that is none.
        """
        own = {key: value for key, value in settings.items() if key != GPUS}
        gpus = settings.get(GPUS, self.gpus)
        if not isinstance(gpus, int) or isinstance(gpus, bool) or not 1 <= gpus <= MOST_GPUS:
            raise UserError(f"gpus={gpus!s:.100} is not a whole number from 1 to {MOST_GPUS}: give one that is.")
        return self.model_copy(update={"settings": {**self.settings, **own}, GPUS: gpus})
