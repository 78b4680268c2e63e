"""Model presets: one YAML file a model, in this folder or named by the user."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evals.errors import UserError, unknown, unreadable
from sharedllm import plain_yaml


class Weights(BaseModel):
    """Where weights come from, and what to tell a person who does not have them.

    source: `package:NAME` (an installed Python package), `hub:ORG/NAME` or a folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    revision: str | None = None
    size: str | None = Field(None, description="download size, for people: '13 GB'")
    licence: str | None = None
    gated: bool = False

    def folder(self) -> Path | None:
        """Where `package:NAME/FOLDER` or a folder lies, whether or not it is there; None for the hub."""
        kind, _, rest = self.source.rpartition(":")
        if kind == "hub":
            return None
        package, _, inside = rest.partition("/")
        return Path(str(resources.files(package))) / inside if kind == "package" else Path(rest)


class Preset(BaseModel):
    """A method, its weights and its settings under a name.

    method: key of the method registry. settings: validated by the method. adapter: trained parts that are laid
    over the base. shape: config of the base for --random-weights (`model_type` and its fields).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    method: str
    description: str
    weights: Weights
    adapter: Weights | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    shape: dict[str, Any] | None = None
    max_context: int | None = None

    def adapter_folder(self, checkpoint: str | None) -> Path:
        """Where the trained parts lie: in `checkpoint`, else where the preset says; a UserError if nowhere."""
        assert self.adapter is not None
        folder = Path(checkpoint) if checkpoint else self.adapter.folder()
        if folder is None or not folder.is_dir():
            raise UserError(
                f"The adapter of {self.name} is not at {folder}: train one with sharedllm-train and name its folder "
                "with --checkpoint, or use --random-weights to measure memory and latency alone."
            )
        return folder

    def override(self, settings: dict[str, Any]) -> Preset:
        """The same preset with some settings replaced (`--set key=value`)."""
        return self.model_copy(update={"settings": {**self.settings, **settings}})


def names() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in resources.files(__name__).iterdir() if f.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """The preset of that name, or the one in the YAML file of that path.

    Raises UserError for an unknown name (with the nearest ones), an unreadable file or a field that does not fit.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"There is no preset file {path}: name an existing YAML file or a preset of `--list`.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(path, error) from error
    elif name in names():
        text = (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise unknown("model", name, names(), "--list")
    try:
        return Preset.model_validate(plain_yaml.load(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"The preset {name} does not fit at {where}: {first['msg']}.") from error
    except ValueError as error:
        raise UserError(f"The preset {name} cannot be read: {error}.") from error
