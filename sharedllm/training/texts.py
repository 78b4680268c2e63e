"""Text files of training data: lines, documents and their token ids, read piece by piece."""

from __future__ import annotations

import codecs
import gzip
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError, reading

BROKEN = (lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError)
"""What reading raises where an archive is cut short or is not an archive."""
PIECE = 50_000
"""Characters that a tokenizer gets in one piece, up to the next line end."""
LONGEST_PIECE = 1_000_000
"""Characters after which a piece ends even within a line."""
TOGETHER = 64
"""Pieces that a fast tokenizer works on in parallel."""


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[list[int]]:
    """The ids of a text of any length, piece by piece, without special tokens."""
    cut = pieces(text)
    for start in range(0, len(cut), TOGETHER):
        with reading("A text", "remove what the tokenizer cannot read"):
            found = tokenizer(cut[start : start + TOGETHER], add_special_tokens=False, verbose=False)["input_ids"]
        yield from cast(list[list[int]], found)


def pieces(text: str, size: int = PIECE, longest: int = LONGEST_PIECE) -> list[str]:
    """A text cut after line ends; a line of more than `longest` characters after a space, or anywhere without one."""
    cut, start = [], 0
    while start < len(text):
        end = text.find("\n", start + size, start + longest)
        if end < 0 and len(text) - start > longest:
            end = text.rfind(" ", start + longest // 2, start + longest)
            end = start + longest - 1 if end < 0 else end - 1  # a space belongs to the word after it
        end = len(text) if end < 0 else end + 1
        cut.append(text[start:end])
        start = end
    return cut


def read_texts(path: Path) -> Iterator[str]:
    """The documents of a text or jsonl file, line ends of a text as \\n.

    Raises UserError for a broken archive, and with the line for a row that does not fit or is not UTF-8.
    """
    if path.suffix == ".txt":
        yield "".join(line for _, line in numbered_lines(path)).replace("\r\n", "\n").replace("\r", "\n")
        return
    for number, line in numbered_lines(path):
        try:
            text = json.loads(line)["text"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a JSON object with a field 'text' ({type(error).__name__})."
            ) from error
        if not isinstance(text, str):
            raise UserError(f"{path}, line {number}: the field 'text' is not a string.")
        check_surrogates(text, path, number)
        yield text


def check_surrogates(text: str, path: Path, number: int) -> None:
    """Raise UserError with the line for half a character, which JSON can name."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}, line {number}: half a surrogate pair, which no text holds.") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers (from 1) and text of a file's lines, unpacked on the fly where its name ends in .xz or .gz.

    A byte-order mark at the start is not part of the text. Raises UserError for a file that cannot be read, a broken
    archive, and with the line for bytes that are not UTF-8.
    """
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield number, (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}, line {number}: not UTF-8, save the file as UTF-8.") from error
    except BROKEN as error:
        raise UserError(f"{path} is not a whole {path.suffix} archive ({error}): pack or download it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): make it readable.") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
