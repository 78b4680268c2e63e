"""What orders the chunks of a context by a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from evals.errors import UserError

WORD = r"(?u)[㐀-鿿]|[^\W㐀-鿿]+"
"""A word: letters and digits, but every Chinese character is one of its own. Single digits count."""


class Index(Protocol):
    """Chunks of one context, ready for questions."""

    def scores(self, question: str) -> list[float]:
        """How well each chunk fits the question: larger is better."""


class Ranker(Protocol):
    """Builds indexes."""

    def index(self, chunks: Sequence[str]) -> Index:
        """An index of at least one chunk."""


class BM25:
    """BM25 of bm25s with its defaults (Lucene's formula, k1 1.5, b 0.75, English stop words)."""

    def __init__(self) -> None:
        try:
            import bm25s
        except ModuleNotFoundError as error:
            raise UserError("Ranking by BM25 needs the package bm25s: pip install 'sharedllm[retrieval]'.") from error
        self._bm25s = bm25s

    def words(self, text: str) -> list[str]:
        """The words of a text that count, in lower case."""
        words: list[list[str]] = self._bm25s.tokenize([text], token_pattern=WORD, return_ids=False, show_progress=False)
        return words[0]

    def index(self, chunks: Sequence[str]) -> BM25Index:
        return BM25Index(self, chunks)


class BM25Index:
    """The words of each chunk, in host memory."""

    def __init__(self, bm25: BM25, chunks: Sequence[str]) -> None:
        self._words, self._chunks = bm25.words, len(chunks)
        corpus = [bm25.words(chunk) for chunk in chunks]
        self._index = None
        if any(corpus):
            self._index = bm25._bm25s.BM25()
            self._index.index(corpus, show_progress=False)

    def scores(self, question: str) -> list[float]:
        words = self._words(question)
        if self._index is None or not words:
            return [0.0] * self._chunks
        return [float(score) for score in self._index.get_scores(words)]
