"""What one training step reads. A batch depends on (seed, step) alone, so a resumed run sees the same batches."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sharedllm.errors import UserError
from sharedllm.inputs import ContextInputs
from sharedllm.processes import end_with_parent
from sharedllm.training.corpus import Corpus
from sharedllm.training.loss import target_rows

NO_CONTEXT = "no context"
"""Kind of a batch whose context was dropped."""
REPEATS = 4
"""Passages repeated in a window."""
PASSAGE_SHARE = 10
"""A passage is shorter than this part of a chunk."""
HOST = ("query_start", "query_length")
"""Fields that stay on the host: shapes are read off them, and a device would have to be waited for."""


@dataclass(kw_only=True)
class Batch(ContextInputs):
    """What one step reads, and what the loss makes of it.

    labels: (B, S), -100 where nothing is learnt. weights: (B, S) of each label. rows: see `target_rows`. kind: whose
    loss it is in the log. progress: share of the run's steps before this one.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    kind: str = "lm"
    progress: float = 1.0
    use_cache: bool | None = False

    def prepared(self) -> Batch:
        """With `rows`."""
        return replace(self, rows=target_rows(self.labels))

    def pin_memory(self) -> Batch:
        """In memory that a device copies from while it works."""
        return self._each_tensor(lambda _, tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device, but for what shapes are read from (`HOST`)."""
        return self._each_tensor(lambda name, tensor: tensor if name in HOST else tensor.to(device, non_blocking=True))

    def _each_tensor(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Batch:
        changed = copy.copy(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                setattr(changed, field.name, change(field.name, value))
        return changed

    @property
    def tokens(self) -> int:
        """Tokens read by both models."""
        return self.input_ids.numel() + (0 if self.context_ids is None else self.context_ids.numel())


def whole_text(batch: Batch) -> torch.Tensor:
    """(B, chunks * size + S) context and running text in a row; running text alone where there is no context."""
    if batch.context_ids is None or batch.kind == NO_CONTEXT:
        return batch.input_ids
    return torch.cat([batch.context_ids.flatten(1), batch.input_ids], dim=1)


class LanguageModelling:
    """Windows of consecutive text: chunks of context, then running text whose every next token is a target.

    Raises UserError for corpora that the longest windows do not fit into: a batch may draw them after hours.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        weights: Sequence[float],
        windows: int,
        chunks: Sequence[int],
        running: int,
        chunk_size: int,
        gap_share: float,
        max_chunks: int,
        drop_context: float = 0.0,
        repeat_share: float = 0.0,
    ) -> None:
        self.corpora = list(corpora)
        self.weights = np.asarray(weights) / sum(weights)
        self.windows, self.chunks, self.running, self.chunk_size = windows, list(chunks), running, chunk_size
        self.gap_share, self.max_chunks, self.drop_context = gap_share, max_chunks, drop_context
        self.repeat_share = repeat_share
        for corpus in self.corpora:
            corpus.places(max(chunks) * chunk_size + running)

    def __call__(self, rng: np.random.Generator) -> Batch:
        chunks = int(rng.choice(self.chunks))
        windows = max(1, self.windows * self.chunks[0] // chunks)  # about the same number of chunks in every batch
        split = chunks * self.chunk_size
        rows = np.stack(
            [
                self.corpora[rng.choice(len(self.corpora), p=self.weights)].window(split + self.running, rng)
                for _ in range(windows)
            ]
        ).astype(np.int64)
        for row in rows[: round(windows * self.repeat_share)]:
            repeat_passages(row, chunks, self.chunk_size, rng)
        running = torch.from_numpy(rows[:, split:].copy())
        context = torch.from_numpy(rows[:, :split].copy()).view(windows, chunks, self.chunk_size)
        if rng.random() < self.drop_context:
            # a chunk that does not count: all parameters still take part, as data parallelism wants it
            none = torch.zeros(windows, dtype=torch.long)
            return Batch(
                input_ids=running, labels=running, context_ids=context[:, :1], num_chunks=none, kind=NO_CONTEXT
            )
        gaps = chunk_gaps(windows, chunks, self.gap_share, self.max_chunks, rng)
        return Batch(input_ids=running, labels=running, context_ids=context, chunk_index=gaps)


def check_repeats(chunk_size: int, running: int) -> None:
    """Raise UserError where `repeat_passages` has no room for a passage, which takes up to a tenth of a chunk."""
    if chunk_size < 2 * PASSAGE_SHARE:
        raise UserError(
            f"repeat_share: chunks of {chunk_size} tokens hold no passage to repeat: use chunks of "
            f"{2 * PASSAGE_SHARE} or more, or repeat_share=0."
        )
    if running <= chunk_size // PASSAGE_SHARE:
        raise UserError(
            f"repeat_share: {running} tokens of running text have no room for a passage of a chunk of {chunk_size}: "
            f"set running to more than {chunk_size // PASSAGE_SHARE}, or repeat_share=0."
        )


def repeat_passages(row: np.ndarray, chunks: int, chunk_size: int, rng: np.random.Generator) -> None:
    """Copy passages of the context into the running text of `row`, in place.

    They come from the last eighth of a chunk, which a tree without a search keeps most finely. Plain text gives a
    short training little reason to look far back; a repeated passage can be predicted in no other way.
    """
    running = len(row) - chunks * chunk_size
    for _ in range(REPEATS):
        length = int(rng.integers(chunk_size // 64, chunk_size // PASSAGE_SHARE))
        source = int(rng.integers(1, chunks + 1)) * chunk_size - int(rng.integers(length, chunk_size // 8 + 1))
        target = len(row) - running + int(rng.integers(running - length))
        row[target : target + length] = row[source : source + length]


def chunk_gaps(windows: int, chunks: int, share: float, most: int, rng: np.random.Generator) -> torch.Tensor | None:
    """(windows, chunks) increasing chunk positions below `most` with random gaps: those of long contexts without their
    cost. share: of the batches that have some; None for the others, and where there is no room for gaps.
    """
    if rng.random() >= share or most <= chunks:
        return None
    rows = [np.sort(rng.choice(most, size=chunks, replace=False)) for _ in range(windows)]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


class _Steps(Dataset["Batch | UserError"]):
    """make(step) as a data set. A UserError travels as a value: a worker would bury its message in a traceback."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch | UserError:
        try:
            return self.make(step).prepared()
        except UserError as error:
            return error


def _begin_worker(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tokenizer's threads do not survive a fork
    for number in (signal.SIGINT, signal.SIGTERM):  # both reach the whole group; the trainer decides when it ends
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def stream(make: Callable[[int], Batch], start: int, stop: int, workers: int = 8) -> Generator[Batch]:
    """make(start), ..., make(stop - 1) in order, prepared ahead by worker processes; raises what `make` raises.

    The workers end with the generator: whoever may leave it early closes it.
    """
    loader = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(workers, max(1, (os.cpu_count() or 1) - 1)),
        multiprocessing_context="fork",  # workers share the tokens and need nothing that can be pickled
        worker_init_fn=_begin_worker,
        pin_memory=torch.cuda.is_available(),
    )
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        # a traceback keeps the iterator alive, and Python would wait at its end for workers that ignore SIGTERM
        getattr(batches, "_shutdown_workers")()  # noqa: B009 - what its destructor calls; torch has no public name
