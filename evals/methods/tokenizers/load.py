"""The tokenizer of a checkpoint's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods.boundary import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""One of them makes a folder's tokenizer."""
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "*.jinja",
)
"""Patterns of all files of a tokenizer."""
ADVICE = "copy the tokenizer files of the model's release into the folder"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder (prompts need its character offsets); code in the folder never runs.

    Its attribute `generation_stop_ids` is a frozenset: the end-of-sequence ids that the folder's generation settings
    name beside the tokenizer's own. Raises UserError where there is no usable tokenizer.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise UserError(f"There is no tokenizer in {folder}: {ADVICE} (tokenizer.json, or tokenizer.model).")
    with reading(f"The tokenizer in {folder}", ADVICE):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise UserError(f"The tokenizer in {folder} has no fast version (tokenizer.json), as prompts need.")
    setattr(tokenizer, "generation_stop_ids", generation_stop_ids(folder))  # noqa: B010 - not a declared attribute
    return tokenizer


def generation_stop_ids(folder: Path) -> frozenset[int]:
    """`eos_token_id` of generation_config.json, else of config.json (one id or a list); empty where neither says.

    Raises UserError where the files are not what they should be.
    """
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        with reading(path, "repair the file"):
            settings = json.loads(path.read_text(encoding="utf-8-sig"))
            found = settings.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if found is not None and not all(type(i) is int and i >= 0 for i in ids):
            raise UserError(f"{path}: eos_token_id is {found!r}, not a token id or a list of them: repair the file.")
        if found is not None:
            return frozenset(ids)
    return frozenset()
