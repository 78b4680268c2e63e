"""GGUF files, converted once to float32 safetensors in the cache folder."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from evals.errors import UserError
from evals.hashing import digest_of_file
from evals.methods.tokenizers import has_tokenizer
from evals.methods.weights.checkpoint import check_weight_files, read_config, weight_files
from evals.methods.weights.keys import LoadingInfo, check_keys
from sharedllm.errors import reading
from sharedllm.files import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

CONVERSION = "v2"
"""Changes when weights or token ids of a conversion do: it names the folder and is part of the identity."""


def converted(gguf: Path, licence: str | None = None) -> Path:
    """The folder with the GGUF file's weights as float32 safetensors (exact), made once, moved in whole.

    licence: of the weights, shown when they are converted.
    """
    target = _target(gguf)
    if target.is_dir():
        if _is_whole(target):
            return target
        shutil.rmtree(target, ignore_errors=True)  # damaged in the cache: convert again
    if importlib.util.find_spec("gguf") is None:
        raise UserError("Reading a GGUF file needs the package gguf: pip install 'gguf>=0.10'.")
    terms = f"; its licence: {licence}" if licence else ""
    log.warning("Converting %s once, into %s%s", gguf.name, target, terms)
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
            "name a folder with 2 GB free in XDG_CACHE_HOME."
        ) from error
    return target


def conversion(gguf: Path) -> Path | None:
    """The folder that `converted` gives, if it is there."""
    target = _target(gguf)
    return target if target.is_dir() and _is_whole(target) else None


def _target(gguf: Path) -> Path:
    return cache_folder() / f"{gguf.stem}-{digest_of_file(gguf)[:16]}-{CONVERSION}"


def _is_whole(folder: Path) -> bool:
    try:
        check_weight_files(weight_files(folder, read_config(folder)))
    except UserError:
        return False
    return has_tokenizer(folder)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from evals.methods.tokenizers.gguf import gguf_tokenizer

    dense = {}
    if hasattr(transformers, "GgufConfig"):  # since 5.20 or so blocks stay packed where this does not forbid it
        dense["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with reading(gguf, "download the file again, or convert another one"):
        tokenizer = gguf_tokenizer(gguf)
        loaded: object = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            **dense,
        )
    model, info = cast("tuple[PreTrainedModel, LoadingInfo]", loaded)
    check_keys(gguf, info)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
