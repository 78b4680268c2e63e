"""Long documents as token ids: read once, kept as a memory-mapped array, sampled by window."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.training.texts import BROKEN, read_texts, token_ids
from sharedllm.training.token_cache import TokenCache

MOST_EXPANSION = 100
"""Times that a token file may grow when it is unpacked."""


@dataclass(frozen=True)
class Corpus:
    """The documents of one file: `ids` of all of them in a row, document i at starts[i] : starts[i + 1]."""

    name: str
    ids: np.ndarray
    starts: np.ndarray

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def places(self, length: int) -> np.ndarray:
        """How many windows of `length` tokens each document has. Raises UserError where none has one."""
        counts: np.ndarray = np.maximum(np.diff(self.starts) - length + 1, 0)
        if not counts.sum():
            raise UserError(
                f"No document in {self.name} has {length} tokens: train on shorter windows or longer texts."
            )
        return counts

    def window(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """`length` consecutive ids of one document, every position of every long enough document equally likely.

        Raises UserError where no document is that long.
        """
        room = self.places(length)
        ends = room.cumsum()
        at = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, at, side="right"))
        start = int(self.starts[index] + at - (ends[index] - room[index]))
        return self.ids[start : start + length]


def open_corpus(path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path) -> Corpus:
    """Tokenise a file, or read what an earlier call left in `cache`.

    path: .txt (one document), .jsonl, .jsonl.gz, .jsonl.xz with a field `text`, or .tokens.npz as written by
    `save_corpus`. Raises UserError for a broken file, and with the line for a malformed row.
    """
    if path.name.endswith(".tokens.npz"):
        return _stored(path, tokenizer)
    store = TokenCache(cache, path, tokenizer)
    if not store.complete:
        store.write(*_tokenize(path, tokenizer))
    return Corpus(path.name.split(".")[0], *store.read())


def save_corpus(corpus: Corpus, path: Path) -> None:
    """Write a corpus as one file that another machine can read without the text."""
    np.savez(path, ids=np.asarray(corpus.ids), starts=corpus.starts)


def _stored(path: Path, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    """A .tokens.npz file whose ids all have an entry in the vocabulary."""
    ids, starts = _unpacked(path)
    if ids.ndim != 1 or starts.ndim != 1 or ids.dtype.kind not in "iu" or starts.dtype.kind not in "iu":
        raise UserError(f"{path} holds ids or starts that are not lists of whole numbers: write it again.")
    whole = len(starts) > 1 and int(starts[0]) == 0 and int(starts[-1]) == len(ids)
    if not whole or not bool((np.diff(starts.astype(np.int64)) >= 0).all()):
        raise UserError(f"{path} holds starts that do not rise from 0 to its {len(ids)} ids: write it again.")
    if not len(ids):
        raise UserError(f"{path} holds no text.")
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise UserError(
            f"{path} holds ids from {ids.min()} to {ids.max()}, the tokenizer has 0 to {vocabulary - 1}: "
            "write it with the tokenizer of --base."
        )
    return Corpus(path.name.removesuffix(".tokens.npz"), ids, starts.astype(np.int64))


def _unpacked(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_EXPANSION * path.stat().st_size:
            raise MemoryError
        with np.load(path) as stored:
            return stored["ids"], stored["starts"]
    except (*BROKEN, OSError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError, MemoryError) as error:
        raise UserError(f"{path} is not a whole file of token ids: copy or write it again.") from error


def _tokenize(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    kind = np.uint16 if len(tokenizer) <= 65536 else np.int32
    parts: list[np.ndarray] = []
    starts = [0]
    for text in read_texts(path):
        pieces = [np.asarray(piece, dtype=kind) for piece in token_ids(tokenizer, text)]
        parts += pieces
        starts.append(starts[-1] + sum(map(len, pieces)))
    if not starts[-1]:
        raise UserError(f"{path} holds no text.")
    return np.concatenate(parts), np.asarray(starts)
