"""Query-aware fine-tuning on questions with answers (paper section 3.3, SFT): loss on the response alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.training.batches import Batch
from sharedllm.training.texts import check_surrogates, numbered_lines, token_ids

FIELDS = ("context", "question", "answer")


@dataclass(frozen=True)
class Example:
    """Token ids of one row."""

    context: list[int]
    question: list[int]
    answer: list[int]


def read_examples(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Rows of a .jsonl(.gz, .xz) file with string fields context, question and answer.

    The answer ends with EOS. Raises UserError for a broken archive, and with the line for a row that does not fit.
    """
    examples = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
            texts = [row[field] for field in FIELDS]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object with {', '.join(FIELDS)}.") from error
        if not all(isinstance(t, str) for t in texts) or not texts[1] or not texts[2]:
            raise UserError(f"{path}, line {number}: {', '.join(FIELDS)} must be strings, the last two not empty.")
        for text in texts:
            check_surrogates(text, path, number)
        ids = [[i for piece in token_ids(tokenizer, text) for i in piece] for text in texts]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        examples.append(Example(ids[0], ids[1], [*ids[2], *end]))
    if not examples:
        raise UserError(f"{path} holds no examples.")
    return examples


class FineTuning:
    """Batches of examples: whole chunks of the context are compressed, its remainder stands before the question."""

    def __init__(self, examples: list[Example], batch: int, chunk_size: int, max_chunks: int, running: int) -> None:
        self.examples, self.batch = examples, batch
        self.chunk_size, self.max_chunks, self.running = chunk_size, max_chunks, running

    def __call__(self, rng: np.random.Generator) -> Batch:
        rows = [self._row(self.examples[i]) for i in rng.integers(len(self.examples), size=self.batch)]
        chunks = max(len(r[0]) for r in rows)
        context = np.zeros((len(rows), max(chunks, 1), self.chunk_size), np.int64)
        ids = np.zeros((len(rows), self.running), np.int64)
        labels = np.full_like(ids, -100)
        start, length, count = (np.zeros(len(rows), np.int64) for _ in range(3))
        for i, (pieces, lead, example) in enumerate(rows):
            count[i], start[i], length[i] = len(pieces), len(lead), len(example.question)
            context[i, : len(pieces)] = pieces
            text = [*lead, *example.question, *example.answer]
            ids[i, : len(text)] = text
            labels[i, len(lead) + len(example.question) : len(text)] = example.answer
        return Batch(
            input_ids=torch.from_numpy(ids),
            labels=torch.from_numpy(labels),
            context_ids=torch.from_numpy(context),
            query_start=torch.from_numpy(start)[:, None],
            query_length=torch.from_numpy(length)[:, None],
            num_chunks=torch.from_numpy(count),
            kind="sft",
        )

    def _row(self, example: Example) -> tuple[np.ndarray, list[int], Example]:
        """Chunks, remainder and the example with its question and answer cut to fit the running text.

        A context longer than max_chunks is cut in the middle; answers are cut before questions.
        """
        question = example.question[-self.running // 2 :]
        answer = example.answer[: self.running - len(question)]
        room = min(self.chunk_size - 1, self.running - len(question) - len(answer))
        most = self.max_chunks * self.chunk_size + room
        context = example.context
        if len(context) > most:
            context = [*context[: most // 2], *context[len(context) - (most - most // 2) :]]
        whole = min(len(context) // self.chunk_size, self.max_chunks)
        pieces = np.asarray(context[: whole * self.chunk_size], np.int64).reshape(whole, self.chunk_size)
        lead = context[whole * self.chunk_size :]
        return pieces, lead[: max(room, 0)], Example(example.context, question, answer)
