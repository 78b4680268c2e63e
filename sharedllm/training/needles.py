"""Synthetic retrieval: numbers hidden in text and questions about them, with a tree per chunk and question.

Several questions are asked in one running text, and each chunk is searched with the question of a needle that it
holds: one read of the context teaches several retrievals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.training.batches import Batch, chunk_gaps
from sharedllm.training.corpus import Corpus
from sharedllm.training.vocabulary import ADJECTIVES, CITIES, NOUNS, TEMPLATES, Template, capitalised, invented

DIGITS = (5, 8)
"""Fewest and most digits of a number in training: from one length alone a model learns to always write that many."""
INVENTED_SHARE, WORD_SHARE = 0.3, 0.4
"""Names that are made up, and names that are words of the vocabulary; the others are cities. A few hundred cities alone
are memorised, and unseen names are then confused with each other."""
ONE_QUESTION_SHARE = 0.25
"""Windows with one question, with which all chunks are searched, as in use."""
FIRST_DIGIT_WEIGHT = 3.0
"""The first digit is the hard one: it takes finding the needle; the others only continue it."""


@dataclass(frozen=True)
class Shape:
    """`windows` x `chunks` of context, at most (or `exactly`) `needles` in each window, `questions` asked."""

    windows: int
    chunks: int
    needles: int
    questions: int
    exactly: bool = False


@dataclass(frozen=True)
class Fact:
    """What a needle says: a number for a name, in the words of a template."""

    template: Template
    key: str
    value: str


@dataclass(frozen=True)
class _Query:
    """Ids of the query and of its answer; `question` is the span of the query that a search may see."""

    query: list[int]
    answer: list[int]
    question: tuple[int, int]


class Needles:
    """Batches of windows with needles in text from `corpora`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        corpora: Sequence[Corpus],
        chunk_size: int,
        running: int,
        gap_share: float,
        max_chunks: int,
        digits: tuple[int, int] = DIGITS,
    ) -> None:
        self.digits = digits
        self.tokenizer, self.corpora = tokenizer, list(corpora)
        self.chunk_size, self.running = chunk_size, running
        self.gap_share, self.max_chunks = gap_share, max_chunks
        self.start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.words = capitalised(tokenizer)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> Batch:
        rows = [self._window(rng, shape) for _ in range(shape.windows)]
        gaps = chunk_gaps(shape.windows, shape.chunks, self.gap_share, self.max_chunks, rng)

        def stacked(name: str) -> torch.Tensor:
            return torch.from_numpy(np.stack([row[name] for row in rows]))

        return Batch(
            input_ids=stacked("input_ids"),
            labels=stacked("labels"),
            weights=stacked("weights"),
            context_ids=stacked("context_ids"),
            query_start=stacked("query_start"),
            query_length=stacked("query_length"),
            chunk_question=stacked("chunk_question"),
            chunk_index=gaps,
            kind=f"needle {shape.chunks}",
        )

    def _window(self, rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
        context = self._filler(rng, shape.chunks * self.chunk_size).reshape(shape.chunks, self.chunk_size)
        shares = np.array([t.share for t in TEMPLATES])
        template = TEMPLATES[rng.choice(len(TEMPLATES), p=shares / shares.sum())]
        fewest = shape.needles if shape.exactly else max(1, shape.needles // 4)
        count = int(rng.integers(fewest, shape.needles + 1))
        facts = self._draw(rng, template, count)
        sentences = self._sentences(facts)
        holder = np.full(shape.chunks, -1)
        questions = 1 if rng.random() < ONE_QUESTION_SHARE else min(shape.questions, len(facts), shape.chunks)
        asked = rng.permutation(len(facts))[:questions]
        chunk = rng.integers(shape.chunks, size=len(facts))
        # a chunk is searched for one question: two asked needles in it would leave a loss that nothing can reduce
        chunk[asked] = rng.permutation(shape.chunks)[:questions]
        holder[chunk[asked]] = np.arange(questions)
        for c in range(shape.chunks):
            held = np.flatnonzero(chunk == c)
            places = disjoint_places([len(sentences[i]) for i in held], self.chunk_size, rng)
            for i, place in zip(held, places, strict=True):
                context[c, place : place + len(sentences[i])] = sentences[i]
        return {
            "context_ids": context,
            **self._ask(rng, self._queries([facts[i] for i in asked]), holder, shape.questions),
        }

    def _ask(
        self, rng: np.random.Generator, queries: list[_Query], holder: np.ndarray, width: int
    ) -> dict[str, np.ndarray]:
        """The running text: a little text that belongs to no question, then the questions with their answers."""
        room = self.running - sum(len(n.query) + len(n.answer) for n in queries) - len(self.start)
        lead = [*self.start, *self._filler(rng, int(rng.integers(max(room, 0) + 1))).tolist()]
        ids, labels, weights = list(lead), [-100] * len(lead), [0.0] * len(lead)
        start, length = np.zeros(width, np.int64), np.ones(width, np.int64)
        for k, asked in enumerate(queries):
            begin, end = asked.question
            start[k], length[k] = len(ids) + begin, end - begin
            ids += asked.query + asked.answer
            labels += [-100] * len(asked.query) + asked.answer
            weights += [0.0] * len(asked.query) + self._answer_weights(asked.answer)
        pad = self.running - len(ids)
        if pad < 0:
            raise UserError(
                f"{len(queries)} questions take {len(ids)} tokens: raise needle_running above {self.running}."
            )
        free = holder < 0
        holder[free] = rng.integers(len(queries), size=int(free.sum()))
        return {
            "input_ids": np.asarray(ids + [ids[-1]] * pad),
            "labels": np.asarray(labels + [-100] * pad),
            "weights": np.asarray(weights + [0.0] * pad, dtype=np.float32),
            "query_start": start,
            "query_length": length,
            "chunk_question": holder.astype(np.int64),
        }

    def _answer_weights(self, answer: list[int]) -> list[float]:
        digit = [any(c.isdigit() for c in token) for token in self.tokenizer.convert_ids_to_tokens(answer)]
        return [FIRST_DIGIT_WEIGHT if i == digit.index(True) else 1.0 for i in range(len(answer))]

    def _draw(self, rng: np.random.Generator, template: Template, count: int) -> list[Fact]:
        if template.keys == "city":
            found: dict[str, None] = {}
            while len(found) < count:
                found[self._name(rng)] = None
            keys = list(found)
        else:
            pairs = rng.choice(len(ADJECTIVES) * len(NOUNS), size=count, replace=False)
            keys = [f"{ADJECTIVES[p // len(NOUNS)]} {NOUNS[p % len(NOUNS)]}" for p in pairs]
        return numbered(template, keys, rng, self.digits)

    def _name(self, rng: np.random.Generator) -> str:
        kind = rng.random()
        if kind < INVENTED_SHARE:
            return invented(rng)
        names = self.words if self.words and kind < INVENTED_SHARE + WORD_SHARE else CITIES
        return names[rng.integers(len(names))]

    def _sentences(self, facts: Sequence[Fact]) -> list[list[int]]:
        return self._ids([f.template.sentence(f.key, f.value) for f in facts])

    def _queries(self, facts: Sequence[Fact]) -> list[_Query]:
        ids = self._ids([text for f in facts for text in f.template.query(f.key, f.value)])
        return [
            _Query(query, answer[len(query) :], (len(lead), len(question)))
            for lead, question, query, answer in zip(*[iter(ids)] * 4, strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return cast(list[list[int]], self.tokenizer(texts, add_special_tokens=False)["input_ids"])

    def _filler(self, rng: np.random.Generator, length: int) -> np.ndarray:
        return self.corpora[rng.integers(len(self.corpora))].window(length, rng).astype(np.int64)


def numbered(template: Template, keys: Sequence[str], rng: np.random.Generator, digits: tuple[int, int]) -> list[Fact]:
    """A fact for each key with a random number of `digits` (fewest, most) digits."""
    length = rng.integers(digits[0], digits[1] + 1, size=len(keys))
    values = rng.integers(10 ** (length - 1), 10**length)
    return [Fact(template, key, str(value)) for key, value in zip(keys, values, strict=True)]


def disjoint_places(lengths: Sequence[int], room: int, rng: np.random.Generator) -> list[int]:
    """Where spans of these lengths start in `room` tokens, in this order, without touching each other's tokens.

    Raises UserError where they do not fit.
    """
    free = room - sum(lengths)
    if free < 0:
        raise UserError(f"{len(lengths)} needles of one chunk take {room - free} tokens, a chunk has {room}.")
    gaps = np.sort(rng.integers(free + 1, size=len(lengths)))
    return [int(gap) + sum(lengths[:i]) for i, gap in enumerate(gaps)]
