"""Long documents as token ids: read once, kept as a memory-mapped array, sampled by window."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

BROKEN = (lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError)
"""What reading raises where an archive is cut short or is none."""


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

    def window(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """`length` consecutive ids of one document, every position of every long enough document equally likely.

        Raises ValueError where no document is that long.
        """
        room = np.maximum(np.diff(self.starts) - length + 1, 0)
        if not room.sum():
            raise ValueError(
                f"No document in {self.name} has {length} tokens: train on shorter windows or longer texts."
            )
        ends = room.cumsum()
        at = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, at, side="right"))
        start = int(self.starts[index] + at - (ends[index] - room[index]))
        return self.ids[start : start + length]


def open_corpus(path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path) -> Corpus:
    """Tokenise a file, or read what an earlier call left in `cache`.

    path: .txt (one document), .jsonl, .jsonl.gz, .jsonl.xz with a field `text`, or .tokens.npz as written by
    `save_corpus`. Raises ValueError for a broken file, and with the line for a malformed row.
    """
    if path.name.endswith(".tokens.npz"):
        try:
            with np.load(path) as stored:
                return Corpus(path.name.removesuffix(".tokens.npz"), stored["ids"], stored["starts"])
        except (*BROKEN, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole file of token ids: copy or write it again.") from error
    key = hashlib.sha256(f"{path.resolve()}{path.stat().st_mtime_ns}{len(tokenizer)}{tokenizer.name_or_path}".encode())
    stem = cache / f"{path.name.split('.')[0]}-{key.hexdigest()[:12]}"
    ids_file, starts_file = stem.with_suffix(".ids.npy"), stem.with_suffix(".starts.npy")
    if not starts_file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        ids, starts = _tokenize(path, tokenizer)
        for file, array in ((ids_file, ids), (starts_file, starts)):
            partial = file.with_suffix(f".{os.getpid()}.npy")
            np.save(partial, array)
            partial.replace(file)
    return Corpus(path.name.split(".")[0], np.load(ids_file, mmap_mode="r"), np.load(starts_file))


def save_corpus(corpus: Corpus, path: Path) -> None:
    """Write a corpus as one file that another machine can read without the text."""
    np.savez(path, ids=np.asarray(corpus.ids), starts=corpus.starts)


def _tokenize(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    kind = np.uint16 if len(tokenizer) <= 65536 else np.int32
    parts, starts = [], [0]
    for text in read_texts(path):
        pieces = tokenizer(_pieces(text), add_special_tokens=False, verbose=False)["input_ids"]
        parts += [np.asarray(piece, dtype=kind) for piece in pieces]
        starts.append(starts[-1] + sum(map(len, pieces)))
    if not parts:
        raise ValueError(f"{path} holds no text.")
    return np.concatenate(parts), np.asarray(starts)


def _pieces(text: str, size: int = 50_000) -> list[str]:
    """A text cut behind line ends into pieces that a fast tokenizer works on in parallel."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + size)
        end = len(text) if end < 0 else end + 1
        pieces.append(text[start:end])
        start = end
    return pieces


def read_texts(path: Path) -> Iterator[str]:
    """The documents of a text or jsonl file, line ends of a text as \\n.

    Raises ValueError for a broken archive, and with the line for a row that does not fit or is not UTF-8.
    """
    if path.suffix == ".txt":
        yield "".join(line for _, line in numbered_lines(path)).replace("\r\n", "\n").replace("\r", "\n")
        return
    for number, line in numbered_lines(path):
        try:
            text = json.loads(line)["text"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a JSON object with a field 'text' ({type(error).__name__})."
            ) from error
        if not isinstance(text, str):
            raise ValueError(f"{path}, line {number}: the field 'text' is not a string.")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can name half a character
            raise ValueError(f"{path}, line {number}: half a surrogate pair, which no text holds.") from error
        yield text


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers (from 1) and text of a file's lines, unpacked on the fly where its name ends in .xz or .gz.

    Raises ValueError for a broken archive, and with the line for bytes that are not UTF-8.
    """
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield number, line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}, line {number}: not UTF-8, save the file as UTF-8.") from error
    except BROKEN as error:
        raise ValueError(
            f"{path} is not a whole {path.suffix} archive ({error}): pack or download it again."
        ) from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
