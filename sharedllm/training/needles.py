"""Synthetic retrieval: numbers hidden in text and questions about them, with a tree per chunk and question.

Several questions are asked in one running text, and each chunk is searched with the question of a needle that it
holds: one read of the context teaches several retrievals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sharedllm.training.batches import Batch, chunk_gaps
from sharedllm.training.corpus import Corpus
from sharedllm.training.vocabulary import ADJECTIVES, CITIES, NOUNS, TEMPLATES, Template

DIGITS = 7
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
class _Needle:
    """Ids of the hidden sentence, the query, its answer; `question` is the span of the query that a search may see."""

    sentence: list[int]
    query: list[int]
    answer: list[int]
    question: tuple[int, int]


class Needles:
    """Batches of windows with needles in text from `corpora`."""

    def __init__(
        self,
        tokenizer: Any,
        corpora: Sequence[Corpus],
        chunk_size: int,
        running: int,
        gap_share: float,
        max_chunks: int,
    ) -> None:
        self.tokenizer, self.corpora = tokenizer, list(corpora)
        self.chunk_size, self.running = chunk_size, running
        self.gap_share, self.max_chunks = gap_share, max_chunks
        self.start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def __call__(self, rng: np.random.Generator, shape: Shape) -> Batch:
        rows = [self._window(rng, shape) for _ in range(shape.windows)]
        stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        gaps = None
        if rng.random() < self.gap_share:
            gaps = chunk_gaps(shape.windows, shape.chunks, self.max_chunks, rng)
        return Batch(**stacked, chunk_index=gaps, kind=f"needle {shape.chunks}")

    def _window(self, rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
        context = self._filler(rng, shape.chunks * self.chunk_size).reshape(shape.chunks, self.chunk_size)
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        fewest = shape.needles if shape.exactly else max(1, shape.needles // 4)
        count = int(rng.integers(fewest, shape.needles + 1))
        needles = self._draw(rng, template, max(count, 1))
        holder = np.full(shape.chunks, -1)
        # one question in a quarter of the windows: there every chunk is searched with it, as in use
        questions = 1 if rng.random() < 0.25 else min(shape.questions, len(needles), shape.chunks)
        asked = rng.permutation(len(needles))[:questions]
        chunk = rng.integers(shape.chunks, size=len(needles))
        # a chunk is searched for one question: two asked needles in it would leave a loss that nothing can reduce
        chunk[asked] = rng.permutation(shape.chunks)[:questions]
        holder[chunk[asked]] = np.arange(questions)
        for c in range(shape.chunks):
            held = np.flatnonzero(chunk == c)
            places = disjoint_places([len(needles[i].sentence) for i in held], self.chunk_size, rng)
            for i, place in zip(held, places, strict=True):
                context[c, place : place + len(needles[i].sentence)] = needles[i].sentence
        return {"context_ids": context, **self._ask(rng, [needles[i] for i in asked], holder, shape.questions)}

    def _ask(
        self, rng: np.random.Generator, needles: list[_Needle], holder: np.ndarray, width: int
    ) -> dict[str, np.ndarray]:
        """The running text: a little text that belongs to no question, then the questions with their answers."""
        room = self.running - sum(len(n.query) + len(n.answer) for n in needles) - len(self.start)
        lead = [*self.start, *self._filler(rng, int(rng.integers(max(room, 0) + 1))).tolist()]
        ids, labels, weights = list(lead), [-100] * len(lead), [0.0] * len(lead)
        start, length = np.zeros(width, np.int64), np.ones(width, np.int64)
        for k, needle in enumerate(needles):
            begin, end = needle.question
            start[k], length[k] = len(ids) + begin, end - begin
            ids += needle.query + needle.answer
            labels += [-100] * len(needle.query) + needle.answer
            weights += [0.0] * len(needle.query) + self._answer_weights(needle.answer)
        pad = self.running - len(ids)
        if pad < 0:
            raise ValueError(
                f"{len(needles)} questions take {len(ids)} tokens: raise needle_running above {self.running}."
            )
        free = holder < 0
        holder[free] = rng.integers(len(needles), size=int(free.sum()))
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

    def _draw(self, rng: np.random.Generator, template: Template, count: int) -> list[_Needle]:
        if template.keys == "city":
            keys = [CITIES[i] for i in rng.choice(len(CITIES), size=min(count, len(CITIES)), replace=False)]
        else:
            pairs = rng.choice(len(ADJECTIVES) * len(NOUNS), size=count, replace=False)
            keys = [f"{ADJECTIVES[p // len(NOUNS)]} {NOUNS[p % len(NOUNS)]}" for p in pairs]
        return self.encode(template, keys, rng)

    def encode(self, template: Template, keys: Sequence[str], rng: np.random.Generator) -> list[_Needle]:
        """A needle with a random number for each key."""
        values = [str(v) for v in rng.integers(10 ** (DIGITS - 1), 10**DIGITS, size=len(keys))]
        texts = [t for k, v in zip(keys, values, strict=True) for t in template.texts(k, v)]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [
            _Needle(ids[i], query, answer[len(query) :], (len(lead), len(question)))
            for i in range(0, len(ids), 5)
            for lead, question, query, answer in [ids[i + 1 : i + 5]]
        ]

    def _filler(self, rng: np.random.Generator, length: int) -> np.ndarray:
        return self.corpora[rng.integers(len(self.corpora))].window(length, rng).astype(np.int64)


def disjoint_places(lengths: Sequence[int], room: int, rng: np.random.Generator) -> list[int]:
    """Where spans of these lengths start in `room` tokens, in this order, without touching each other's tokens.

    Raises ValueError where they do not fit.
    """
    free = room - sum(lengths)
    if free < 0:
        raise ValueError(f"{len(lengths)} needles of one chunk take {room - free} tokens, a chunk has {room}.")
    gaps = np.sort(rng.integers(free + 1, size=len(lengths)))
    return [int(gap) + sum(lengths[:i]) for i, gap in enumerate(gaps)]
