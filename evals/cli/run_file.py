"""`--config run.yaml`: the options of a whole run in a file. What the command line says stands above it.

The keys are the long names of the options, and their values are checked as the command line's are. Every run writes
the file that repeats it into its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, create_model

from evals.errors import UserError, unreadable
from evals.methods import presets
from evals.records.run_files import RUN_FILE_NAME
from evals.run.spec import RunSpec
from sharedllm import plain_yaml
from sharedllm.errors import reason
from sharedllm.validation import validate

NOT_IN_FILES = ("config", "show_list", "version", "more_settings")
"""Parameters of the command that say nothing about a run."""
SETTINGS = "settings"
"""The parameter behind `--set`, in a file names with values."""
HEADER = f"""\
# The options of this run, `auto` resolved. To repeat it elsewhere:
#   sharedllm-eval --config {RUN_FILE_NAME} --output DIR
# Paths are those of the machine that it ran on. The code and its versions are in run.json.
"""


@dataclass(frozen=True)
class Chosen:
    """What a run file says: values of the command's parameters by name, and its settings."""

    options: dict[str, Any]
    settings: dict[str, object]


def read(path: Path, command: Callable[..., object]) -> Chosen:
    """A run file. command: the function whose options it may set.

    Raises UserError for a file that cannot be read, an unknown option or a value that does not fit.
    """
    hints = _hints(command)
    given = {key: value for key, value in _load(path).items() if value is not None}
    found = validate(_model(hints), given, f"the run file {path}").model_dump(mode="json", exclude_unset=True)
    names = {_key(name, hint): name for name, hint in hints.items()}
    options = {names[key]: value for key, value in found.items() if names[key] != SETTINGS}
    return Chosen(options, dict(given.get("set", {})))


def _load(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise UserError(f"There is no run file {path}: name an existing YAML file.")
        if path.stat().st_size > plain_yaml.MAX_BYTES:
            raise UserError(f"The run file {path} has more than {plain_yaml.MAX_BYTES >> 10} KiB: name another file.")
        found = plain_yaml.load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"The run file {path} cannot be read: {reason(error)}.") from error
    if not isinstance(found, dict) or not found:
        raise UserError(f"The run file {path} holds no options: write them as in `task: needle`, one a line.")
    return found


def _hints(command: Callable[..., object]) -> dict[str, Any]:
    """Annotated type of each parameter that may stand in a file."""
    hints = get_type_hints(command, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in (*NOT_IN_FILES, "return", "ctx")}


def _key(name: str, hint: Any) -> str:
    """The long name of an option, without its dashes."""
    option = _option(hint)
    declared = [option.default, *(option.param_decls or ())]  # Typer takes the first for the default, in Annotated
    long = [text for text in declared if isinstance(text, str) and text.startswith("--")]
    return long[0].removeprefix("--") if long else name.replace("_", "-")


def _option(hint: Any) -> typer.models.OptionInfo:
    found = next(part for part in hint.__metadata__ if isinstance(part, typer.models.ParameterInfo))
    assert isinstance(found, typer.models.OptionInfo)
    return found


def _model(hints: Mapping[str, Any]) -> type[BaseModel]:
    """The options of a command as a checked model: types and ranges are those that the command line knows."""
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        option = _option(hint)
        kind = dict[str, Any] if name == SETTINGS else _type(get_args(hint)[0])
        fields[_key(name, hint)] = (kind, Field(None, ge=option.min, le=option.max))
    return create_model("RunFile", __config__=ConfigDict(extra="forbid"), **fields)


def _type(declared: Any) -> Any:
    """What a file may say for a parameter: of an option that may be repeated, one value or a list."""
    if get_origin(declared) in (Union, UnionType):
        declared = next(part for part in get_args(declared) if part is not type(None))
    if declared == list[str]:
        return Annotated[list[str], BeforeValidator(_listed)]
    if declared is str:
        return Annotated[str, BeforeValidator(_text)]
    return StrictBool if declared is bool else declared


def _listed(value: object) -> object:
    return [_text(item) for item in value] if isinstance(value, list) else [_text(value)]


def _text(value: object) -> object:
    """A whole number as its digits: `length: 8192` and `ray: 4` need no quotes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def text(spec: RunSpec) -> str:
    """The file that repeats a run, its paths absolute."""
    options: dict[str, Any] = {
        "task": spec.tasks,
        "model": [_absolute(name) for name in spec.models],
        "length": spec.lengths,
        "limit": spec.limit,
        "set": spec.settings,
        "seed": spec.seed,
        "device": spec.device,
        "dtype": spec.dtype,
        "attn": "auto" if spec.attn_fallback else spec.attn,
        "batch-size": spec.batch_size,
        "random-weights": spec.random_weights,
        "checkpoint": _absolute_path(spec.checkpoint),
        "data-dir": _absolute_path(spec.data_dir),
        "offline": spec.offline,
        "perf": spec.perf,
        "reuse": spec.reuse,
    }
    kept = {key: value for key, value in options.items() if value is not None and value != {}}
    return HEADER + yaml.safe_dump(kept, sort_keys=False, width=10_000)


def _absolute_path(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _absolute(model: str) -> str:
    """The name of a model; a preset file, folder or .gguf file by its whole path."""
    if model in presets.names() or model.startswith("hub:") or not Path(model).exists():
        return model
    return str(Path(model).absolute())
