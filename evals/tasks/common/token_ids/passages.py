"""Ids of long texts from those of their passages: documents and lines of one prompt stand in others too.

A text is cut around the second word of a line where that has a digit: the number of a document, as in `Document 17:`,
is its place in one prompt, and what follows stands in many. Each passage is tokenised by itself and remembered. The
cuts are exact for the tokenizers of `pieces`: before a single space between two characters that are no white space, as
there, and after a single end of line between two such characters, where each of their pre-tokenizers ends a piece.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evals.tasks.common.token_ids.id_lists import listed
from evals.tasks.common.token_ids.piece_table import UNKNOWN, Ints, PieceTable, Tokens
from evals.tasks.common.token_ids.pieces import Pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUMBERED = re.compile(r"\n(\S++)( \S*\d\S*+(?:\n(?=\S)|(?= \S)))")
"""The first word of a line, and its number with the end of the line where nothing follows."""
LONGEST = 1 << 14
"""Characters of the longest passage that is remembered: longer ones are whole texts and hardly ever there again."""
MOST_TOKENS = 16_000_000
"""Tokens of remembered passages, some 300 MB with their texts (all paragraphs of HotpotQA: 10 million); then all are
forgotten.
"""
PROBE = "One two.\nDocument 1:\nFour five\nIt's 7 'it' 8.\n\nDocument 22:\n'tis (9) \u0301x\n中文 字\n- 3\n5 6 7"


class Passages:
    """Passages of one tokenizer with their ids. `usable`: whether it is one of those for which this is exact."""

    def __init__(self, encoder: Tokenizer) -> None:
        self.words = Pieces(encoder)
        self._table = PieceTable()
        self.usable = self.words.usable and self._agrees(encoder)

    def encode(self, text: str) -> tuple[list[int], np.ndarray] | None:
        """ids and spans (n, 2); None where so many words are new that the tokenizer is faster with the whole text."""
        passages = cut(text)
        if len(passages) == 1:
            return self.words.encode(text)
        rows = self._table.rows(passages)
        unknown = np.flatnonzero(rows == UNKNOWN)
        if not self._learn([passages[place] for place in unknown], rows, unknown, len(text)):
            return None
        found = self._table.gather(rows)
        self._forget()
        return listed(found.ids), np.stack([found.starts, found.ends], axis=1)

    def _learn(self, passages: Sequence[str], rows: Ints, places: Ints, chars: int) -> bool:
        """Enter new passages, and their rows at their places; False where that would take too long."""
        new = sorted(dict.fromkeys(passages), key=lambda passage: len(passage) > LONGEST)
        made = self.words.tokens(new, chars)
        if made is None:
            return False
        known = sum(len(passage) <= LONGEST for passage in new)
        row = dict(zip(new, self._table.add(new, _of_texts(made, new), known).tolist(), strict=True))
        rows[places] = [row[passage] for passage in passages]
        return True

    def _forget(self) -> None:
        self._table.forget()
        if self._table.tokens > MOST_TOKENS:
            self._table = PieceTable()

    def _agrees(self, encoder: Tokenizer) -> bool:
        whole = encoder.encode(PROBE, add_special_tokens=False)
        apart = encoder.encode_batch(cut(PROBE), add_special_tokens=False)
        return list(whole.ids) == [token for passage in apart for token in passage.ids]


def cut(text: str) -> list[str]:
    """The passages of a text: put together they are the text."""
    rest, *parts = NUMBERED.split(text)
    found = []
    for first, second, after in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        found += [f"{rest}\n{first}", second]
        rest = after
    return [*found, rest]


def _of_texts(tokens: Tokens, texts: Sequence[str]) -> Tokens:
    """The same tokens, counted for each of the texts that were put together."""
    chars = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    ends = np.searchsorted(tokens.starts, np.cumsum(chars))
    return tokens._replace(counts=np.diff(ends, prepend=0), chars=chars)
