"""Base model and tokenizer of a training run, checked before anything is trained."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sharedllm.files import reading
from sharedllm.nn.layers import decoder_of


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name. Code that comes with a checkpoint never runs."""
    with reading(f"The tokenizer of {base}", "name a folder with tokenizer files, or a hub model that is downloaded"):
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(base, trust_remote_code=False))


def load_whole_base(base: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The base of a folder or hub name, on the CPU.

    Raises ValueError where it cannot be read, has missing, unknown or misshapen tensors (which transformers would draw
    at random or leave out) or values that are not finite, or where its tokenizer has ids without an embedding.
    """
    folder = Path(base)
    if not folder.is_dir() and (folder.is_absolute() or base.startswith(".")):
        raise ValueError(f"There is no folder {base}: name the base's folder, or a model of the hub.")
    with reading(f"The base {base}", "name a folder with config.json and whole weights, or a hub model"):
        loaded = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    model, report = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    for what, names in (
        ("lacks", report["missing_keys"]),
        ("has tensors that this architecture does not know:", report["unexpected_keys"]),
        ("has tensors of another shape than its config says:", report["mismatched_keys"]),
    ):
        if names:
            listed = ", ".join(sorted(n if isinstance(n, str) else str(n[0]) for n in names)[:3])
            raise ValueError(f"The base {base} {what} {listed} ({len(names)} in all): copy the checkpoint again.")
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"The base {base} has values in {name} that are not finite: copy the checkpoint again.")
    largest, rows = max(tokenizer.get_vocab().values(), default=-1), decoder_of(model).embed_tokens.weight.shape[0]
    if largest >= rows:
        raise ValueError(
            f"The tokenizer of {base} has ids up to {largest}, the embedding {rows} rows: they do not belong together."
        )
    return model


def weights_hash(model: PreTrainedModel) -> str:
    """Hash of every value of a model."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what decides the ids: the whole fast tokenizer, or the vocabulary of a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
