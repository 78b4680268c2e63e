"""Tokens that have no row in the embedding of their model."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from evals.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SPARE = 64
"""Ids past the embedding within which a special token is taken for a leftover."""


def fit_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Make sure that every id that a text can produce has an embedding.

    Some releases have special tokens without a row (Gemma 3 1B: the image placeholder; many fine-tunes of Llama 2: a
    padding token). These are removed from the tokenizer with a warning, so that they are plain text in a prompt.
    Raises UserError for any other token without a row.
    """
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    added = {i: token.special for i, token in tokenizer.added_tokens_decoder.items()}
    needed = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    template = str(tokenizer.chat_template or "")
    for token, i in sorted(beyond.items(), key=lambda entry: entry[1]):
        if not added.get(i) or i >= rows + SPARE or token in needed or token in template:
            raise UserError(
                f"The tokenizer in {folder} has the token {token!r} with id {i}, and the model only {rows} embeddings: "
                "remove the token from the tokenizer's files, or take those of the model's release."
            )
    log.warning(
        "The tokenizer in %s has special tokens without an embedding, which are removed: %s", folder, ", ".join(beyond)
    )
    if tokenizer.pad_token in beyond:
        tokenizer.pad_token = tokenizer.eos_token
    fast = cast("FastTokenizer", tokenizer)
    fast._tokenizer = without_added(fast._tokenizer, beyond)


class FastTokenizer(Protocol):
    """A tokenizer of transformers that works with a pipeline of `tokenizers`."""

    _tokenizer: Tokenizer
    """Where the pipeline is kept; `backend_tokenizer` only reads it."""


def without_added(tokenizer: Tokenizer, tokens: Collection[str]) -> Tokenizer:
    """A copy of the pipeline that does not cut these added tokens out of a text."""
    from tokenizers import Tokenizer

    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] not in tokens]
    return Tokenizer.from_str(json.dumps(made))
