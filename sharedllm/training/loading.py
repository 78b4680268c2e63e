"""Base model and tokenizer of a training run, checked before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

from sharedllm.errors import UserError, reading
from sharedllm.files import is_folder
from sharedllm.nn.layers import decoder_of
from sharedllm.sources import note_commit

PROBE = (
    "The  quick\tfox, 12345!\n\n  def f(x):\n    return x",
    "Ünï½ ｆｕｌｌ \u00a0\u3000 \u4f60\u597d 😀",
    " ",
    "   a",
)
"""Texts on which the tokenizer is compared with its own file."""


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name, with the ids of its own file. Code in a checkpoint never runs.

    transformers rebuilds some classes (Llama's) by rules of its own, which drops the normalizer of tokenizer.json; the
    file's pipeline is put back, so that training sees the ids that evaluation sees. Raises UserError where the ids
    still differ, or where a sentencepiece file gives other ids.
    """
    with reading(f"The tokenizer of {base}", "name a folder with tokenizer files, or a hub model that is downloaded"):
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(base, trust_remote_code=False))
        own = _own_ids(base, tokenizer)
    if own is not None:
        for text in PROBE:
            if tokenizer(text, add_special_tokens=False)["input_ids"] != own(text):
                raise UserError(
                    f"The tokenizer of {base} gives other ids than its own file for {text!r}: save its tokenizer.json "
                    "beside it, or copy all tokenizer files of one release."
                )
    return tokenizer


def _own_ids(base: str, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]] | None:
    """Ids by the tokenizer's own file; None where transformers reads that file as it is."""
    if type(tokenizer) is PreTrainedTokenizerFast:
        return None
    options = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    if path := cached_file(base, "tokenizer.json", **options):
        file = Tokenizer.from_file(path)
        file.no_truncation()
        file.no_padding()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.normalizer, backend.pre_tokenizer = file.normalizer, file.pre_tokenizer
            backend.model, backend.decoder = file.model, file.decoder
        return lambda text: list(file.encode(text, add_special_tokens=False).ids)
    if path := cached_file(base, "tokenizer.model", **options):
        processor = SentencePieceProcessor(model_file=path)
        return lambda text: list(processor.encode(text))
    return None


def load_whole_base(base: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The base of a folder or hub name, on the CPU.

    Raises UserError where it cannot be read, has missing, unknown or misshapen tensors (which transformers would draw
    at random or leave out) or values that are not finite, or where its tokenizer has ids without an embedding.
    """
    if not is_folder(base) and (Path(base).is_absolute() or base.startswith(".")):
        raise UserError(f"There is no folder {base}: name the base's folder, or a model of the hub.")
    with reading(f"The base {base}", "name a folder with config.json and whole weights, or a hub model"):
        loaded = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    model, report = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    note_commit(model, base)
    for what, names in (
        ("lacks", report["missing_keys"]),
        ("has tensors that this architecture does not know:", report["unexpected_keys"]),
        ("has tensors of another shape than its config says:", report["mismatched_keys"]),
    ):
        if names:
            listed = ", ".join(sorted(n if isinstance(n, str) else str(n[0]) for n in names)[:3])
            raise UserError(f"The base {base} {what} {listed} ({len(names)} in all): copy the checkpoint again.")
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise UserError(f"The base {base} has values in {name} that are not finite: copy the checkpoint again.")
    largest, rows = max(tokenizer.get_vocab().values(), default=-1), decoder_of(model).embed_tokens.weight.shape[0]
    if largest >= rows:
        raise UserError(
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
