"""Documents as ids: only as much text as is needed is tokenised, and none of it twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evals.tasks.common.documents import Document
from evals.tasks.common.prompt_builder import PromptBuilder

CHARS_PER_TOKEN = 5
"""First guess of how much text holds enough tokens; doubled until it does."""
MARGIN = 256
"""Tokens between a cut through a text and what is used of it."""


@dataclass(frozen=True)
class Tokens:
    """ids (n,) of a document or of one end of it, and the span of characters (n, 2) of each. whole: of all of it."""

    ids: np.ndarray
    spans: np.ndarray
    whole: bool

    @property
    def span(self) -> tuple[int, int]:
        """Of the characters that the tokens stand for."""
        return (int(self.spans[0, 0]), int(self.spans[-1, 1])) if len(self.ids) else (0, 0)


class TokenStore:
    """Token ids of documents, kept for all lengths and models with the same tokenizer."""

    def __init__(self, builder: PromptBuilder) -> None:
        self._builder = builder
        self._held: dict[tuple[str, bool], Tokens] = {}

    def tokens(self, document: Document, need: int, *, from_end: bool) -> Tokens:
        """At least `need` tokens at one end of the document, all of them where it has fewer.

        Where the text is cut (at a line break) MARGIN more are made, so that the cut does not change the tokens used.
        """
        held = self._held.get((document.id, from_end))
        take = max(need, 1)
        while held is None or not (held.whole or len(held.ids) >= need + MARGIN):
            held = self._read(document, take, from_end)
            take *= 2
        return held

    def fewest(self, document: Document, need: int, *, from_end: bool) -> int:
        """Tokens that a document has at least, by `tokens` of one end and the words of the rest."""
        held = self.tokens(document, need, from_end=from_end)
        start, stop = held.span
        rest = document.text[:start] if from_end else document.text[stop:]
        return len(held.ids) - MARGIN + self._builder.fewest(rest)

    def _read(self, document: Document, need: int, from_end: bool) -> Tokens:
        start, stop = _cut(document, need, from_end)
        found = self._builder.encode_with_spans(document.text[start:stop])
        whole = (start, stop) == (0, len(document.text))  # by characters: tokens may leave white space at the end out
        held = Tokens(np.array(found.ids), found.spans + start, whole)
        for end in (True, False) if whole else (from_end,):
            self._held[document.id, end] = held
        return held


def _cut(document: Document, need: int, from_end: bool) -> tuple[int, int]:
    """Span of characters at one end of a document that should have `need` tokens, up to a line break."""
    text, chars = document.text, need * CHARS_PER_TOKEN + MARGIN
    if chars >= len(text):
        return 0, len(text)
    cut = text.find("\n", len(text) - chars if from_end else chars)
    if from_end:
        return max(cut, 0), len(text)
    return 0, cut if cut >= 0 else len(text)
