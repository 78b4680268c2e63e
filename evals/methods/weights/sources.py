"""From a source (package, hub, folder) to one folder with config, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.packages import package_folder
from evals.methods.presets import Weights
from evals.methods.presets.presence import is_here
from evals.methods.tokenizers import check_has_tokenizer
from evals.methods.weights import hub, peft_adapter
from evals.methods.weights.checkpoint import (
    CONFIG,
    check_weight_files,
    is_adapter,
    no_model,
    read_config,
    weight_files,
)
from evals.methods.weights.configs import causal_config
from evals.methods.weights.gguf import conversion, converted
from evals.methods.weights.parts import joined, parts_of


def resolve(weights: Weights, runtime: Runtime, *, need_weights: bool = True) -> Path:
    """The folder with config, weights and tokenizer, or with a PEFT adapter; converts GGUF, fetches from the hub.

    `runtime.checkpoint` replaces the source. need_weights: check all that can be checked without reading
    the weights. Raises UserError that says how to get what is missing, or what is broken.
    """
    found = locate(weights, runtime)
    if found.is_file():
        return converted(found, None if runtime.checkpoint else weights.licence)
    if need_weights and not is_adapter(found):
        check_weight_files(_present(found, weights, runtime))
    return found


def resolve_tokenizer(weights: Weights, runtime: Runtime) -> Path:
    """The folder with the tokenizer of a model that runs elsewhere: no weights are fetched from the hub for it."""
    if weights.kind == "hub" and not runtime.checkpoint:
        folder = hub.fetch(weights, hub.SMALL_FILES, offline=runtime.offline)
    else:
        folder = resolve(weights, runtime, need_weights=False)
    check_has_tokenizer(folder)
    return folder


def check_here(weights: Weights, runtime: Runtime, own_check: Callable[[Path], None] | None = None) -> None:
    """Check what `runtime.checkpoint` names, else the weights as far as they are on this machine. No weight is read,
    nothing is fetched, converted or joined; what the hub has, and folders still to be made, may be missing.

    own_check: of the folder of a whole checkpoint, for a method with an `own_class`. Raises UserError where a load
    would.
    """
    if not runtime.checkpoint and (weights.kind == "hub" or not is_here(weights) or _in_gguf(weights)):
        return
    found = locate(weights, runtime)
    if found.is_file():
        return
    if not is_adapter(found):
        check_weight_files(_present(found, weights, runtime))
        (own_check or causal_config)(found)
    elif own_check:
        raise UserError(f"{found} holds a PEFT adapter, and this method takes whole checkpoints: merge it.")
    else:
        peft_adapter.check(found)
        check_here(peft_adapter.base_of(found, weights), replace(runtime, checkpoint=None))


def _in_gguf(weights: Weights) -> bool:
    """Whether a package brings a GGUF file, whole or in parts, of which a run makes a folder."""
    root = weights.folder() if weights.kind == "package" else None
    if root is None or (root / CONFIG).is_file():
        return False
    return _only_gguf(root, recursive=True) is not None or bool(parts_of(root))


def stored(weights: Weights, runtime: Runtime) -> list[Path]:
    """The safetensors files of a base that a load would read; none where they are not here in that form.

    Nothing is fetched, converted or joined. What is wrong with a base is for its own check to say.
    """
    try:
        folder = _at_hand(weights, replace(runtime, checkpoint=None, offline=True))
        files = [] if folder is None or is_adapter(folder) else weight_files(folder, read_config(folder))
    except UserError:
        return []
    return [path for path in files if path.suffix == ".safetensors"]


def _at_hand(weights: Weights, runtime: Runtime) -> Path | None:
    """The folder that `resolve` gives, where it has nothing to make for that."""
    root = weights.folder() if weights.kind == "package" else None
    if root is not None and not (root / CONFIG).is_file():
        gguf = _only_gguf(root, recursive=True)
        return conversion(gguf) if gguf else None
    found = locate(weights, runtime)
    return conversion(found) if found.is_file() else found


def locate(weights: Weights, runtime: Runtime) -> Path:
    """Where the weights lie: a folder, or a GGUF file. Hub repositories are fetched unless `runtime.offline`."""
    if runtime.checkpoint:
        return _folder(Path(runtime.checkpoint))
    if weights.kind == "package":
        return package_path(weights.name)
    if weights.kind == "hub":
        return hub.snapshot(weights, offline=runtime.offline)
    return _folder(Path(weights.source))


def package_path(name: str) -> Path:
    """The model folder in an installed package (`NAME` or `NAME/sub/folder`), or its only GGUF file, joined from parts
    where it has them."""
    package, _, inside = name.partition("/")
    root = package_folder(package) / inside
    if (root / CONFIG).is_file():
        return root
    return _only_gguf(root, recursive=True) or joined(root) or root


def _folder(path: Path) -> Path:
    """A folder with a config or an adapter, or the GGUF file that a path names or a folder holds."""
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise UserError(no_model(path))
    if path.is_dir() and not (path / CONFIG).is_file() and not is_adapter(path):
        return _only_gguf(path, recursive=False) or path
    return path


def _only_gguf(folder: Path, *, recursive: bool) -> Path | None:
    files = sorted(folder.glob("**/*.gguf" if recursive else "*.gguf"))
    if len(files) > 1:
        raise UserError(f"{folder} holds {len(files)} GGUF files: name one of them, such as {files[0]}.")
    return files[0] if files else None


def _present(folder: Path, weights: Weights, runtime: Runtime) -> list[Path]:
    """The weight files of a folder whose config is right."""
    fetched = weights.kind == "hub" and not runtime.checkpoint
    if fetched and not (folder / CONFIG).is_file():
        raise hub.missing(weights)
    files = weight_files(folder, read_config(folder))
    if not files:
        raise hub.missing(weights) if fetched else UserError(no_model(folder))
    check_has_tokenizer(folder)
    return files
