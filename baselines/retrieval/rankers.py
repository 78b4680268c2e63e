"""What orders the chunks of a context by a question."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from baselines.companion import companion, companion_folder
from evals.errors import UserError
from evals.methods.base import Runtime

WORD = r"(?u)[㐀-鿿]|[^\W㐀-鿿]+"
"""A word: letters and digits, but every Chinese character is one of its own. Single digits count."""


class Index(Protocol):
    """Chunks of one context, ready for questions. nbytes: what is held for them on the device."""

    nbytes: int

    def scores(self, question: str) -> list[float]:
        """How well each chunk fits the question: larger is better."""


class Ranker(Protocol):
    """Builds indexes. longest: tokens of a chunk that it reads; None where it reads all. weight_bytes, chunk_bytes:
    on the device, for its parameters and for each chunk. token_flops: arithmetic per token of a chunk."""

    longest: int | None
    weight_bytes: int
    chunk_bytes: int
    token_flops: int

    def index(self, chunks: Sequence[str]) -> Index:
        """An index of at least one chunk."""


@contextmanager
def _no_jax() -> Iterator[None]:
    """bm25s imports JAX where it is installed, and JAX then takes three quarters of the GPU's memory for itself."""
    if "jax" in sys.modules:
        yield
        return
    sys.modules["jax"] = None  # type: ignore[assignment]  # Python's way to say that a module is not there
    try:
        yield
    finally:
        del sys.modules["jax"]


class BM25:
    """BM25 of bm25s with its defaults (Lucene's formula, k1 1.5, b 0.75, English stop words), all on the host."""

    longest: int | None = None
    weight_bytes = chunk_bytes = token_flops = 0

    def __init__(self) -> None:
        try:
            with _no_jax():
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

    nbytes = 0

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


class Embeddings:
    """Cosine of the embeddings of a sentence-transformers model. source: `package:NAME/FOLDER`, `hub:ORG/NAME` or a
    folder; a hub model may end in `@REVISION`."""

    def __init__(self, source: str, runtime: Runtime) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise UserError(
                "Ranking by embeddings needs the package sentence-transformers: pip install 'sharedllm[retrieval]'."
            ) from error
        weights, folder = companion(source), companion_folder(source)
        try:
            self.model = SentenceTransformer(
                str(folder or weights.name),
                revision=weights.revision,
                device=runtime.device,
                local_files_only=runtime.offline,
            ).eval()
        except (OSError, ValueError) as error:
            raise UserError(
                f"The embedder {source} cannot be loaded: set embedder to package:NAME/FOLDER, hub:ORG/NAME or a "
                "folder that sentence-transformers reads."
            ) from error
        self.longest: int | None = self.model.max_seq_length
        self.weight_bytes = sum(weight.nbytes for weight in self.model.parameters())
        tables = (m for m in self.model.modules() if isinstance(m, torch.nn.Embedding))
        read = sum(weight.numel() for weight in self.model.parameters()) - sum(m.weight.numel() for m in tables)
        self.token_flops = 2 * read
        self.chunk_bytes = self.index(["one"]).nbytes

    def index(self, chunks: Sequence[str]) -> EmbeddingIndex:
        return EmbeddingIndex(self, chunks)


class EmbeddingIndex:
    """An embedding of each chunk, shape (chunks, dimension), on the device."""

    def __init__(self, ranker: Embeddings, chunks: Sequence[str]) -> None:
        self._model = ranker.model
        self._embeddings = self._model.encode_document(
            list(chunks), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        self.nbytes = self._embeddings.nbytes

    def scores(self, question: str) -> list[float]:
        asked = self._model.encode_query(
            question, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        scores: list[float] = (self._embeddings @ asked).tolist()
        return scores
