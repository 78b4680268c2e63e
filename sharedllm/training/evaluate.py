"""Held-out evaluation of an adapter: true use of context with its controls, and needles at several lengths.

The harness measures the same with more care; this is the quick look at the end of a training run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.nn.layers import output_head
from sharedllm.training.batches import Batch, whole_text
from sharedllm.training.corpus import Corpus
from sharedllm.training.loss import next_token_loss
from sharedllm.training.needles import Needles, Shape

Read = Callable[[Batch], torch.Tensor]
"""Final states (B, S, H) of the running text after its context: `TrainedMethod.hidden`."""
MEAN = "mean"
"""Name of the result over all corpora, beside theirs."""
DIGITS = 7
"""Of the numbers that `needles` asks for: as in the harness's task needle."""


@torch.no_grad()
def language_modelling(
    model: PreTrainedModel,
    corpora: Sequence[Corpus],
    chunks: int,
    size: int,
    running: int,
    windows: int,
    read: Read | None = None,
) -> dict[str, dict[str, float]]:
    """Nats per token of the running text, per corpus, with its own context, another document's and none.

    The running text ends at the same places for every number of chunks, of `size` tokens each. `use` is other - own:
    what the context itself is worth, free of what the cross-attention learnt about the domain.
    """
    read = read or reading_of(model)
    result: dict[str, dict[str, float]] = {}
    for corpus in corpora:
        rows, others = held_out_windows(corpus, window_length(corpus, chunks, size, running), windows)
        sums = dict.fromkeys(("own", "other", "none"), 0.0)
        for i, row in enumerate(rows):
            text = _tensor(row[-running:], model)[None]
            for name, source in (("own", row), ("other", others[i]), ("none", None)):
                context = None
                if source is not None:
                    context = _tensor(source[-running - chunks * size : -running], model).view(1, chunks, size)
                hidden = read(Batch(input_ids=text, labels=text, context_ids=context))
                sums[name] += float(next_token_loss(hidden, output_head(model).weight, text)) / windows
        result[corpus.name] = {**sums, "use": sums["other"] - sums["own"]}
    names = ("own", "other", "none", "use")
    result[MEAN] = {n: float(np.mean([result[c.name][n] for c in corpora])) for n in names}
    return result


def needle_source(tokenizer: PreTrainedTokenizerBase, corpora: Sequence[Corpus], size: int, running: int) -> Needles:
    """What `needles` asks: training's wordings around numbers of one length, chunks without gaps."""
    return Needles(tokenizer, corpora, size, running, 0.0, 0, (DIGITS, DIGITS))


@torch.no_grad()
def needles(
    model: PreTrainedModel,
    source: Needles,
    chunks: int,
    count: int,
    windows: int,
    batch: int,
    seed: int = 7,
    read: Read | None = None,
) -> dict[str, float]:
    """Exact match, digit accuracy and first-digit accuracy of one question among `count` needles.

    Numbers of `source` have DIGITS digits. Teacher-forced: all digits right at once is the same as a right greedy
    answer.
    """
    read = read or reading_of(model)
    hits: list[np.ndarray] = []
    for made in needle_batches(source, chunks, count, windows, batch, seed):
        asked = made.to(model.device)
        hits.append(_digits_right(model, asked, read(asked)))
    right = np.concatenate(hits)
    return {
        "exact_match": float(right.all(1).mean()),
        "digits": float(right.mean()),
        "first_digit": float(right[:, 0].mean()),
        "windows": float(len(right)),
    }


def needle_batches(
    source: Needles, chunks: int, count: int, windows: int, batch: int, seed: int = 7
) -> Iterator[Batch]:
    """What `needles` asks with these arguments. Raises UserError where needles or question find no room."""
    for start in range(0, windows, batch):
        rng = np.random.default_rng([seed, start])
        yield source(rng, Shape(min(batch, windows - start), chunks, count, 1, exactly=True))


def reading_of(model: PreTrainedModel) -> Read:
    """How SharedLLM reads a batch. Any other model reads context and running text as one sequence: what its attention
    over everything gets is the most that a compressed context can be worth to it."""
    if isinstance(model, SharedLLMForCausalLM):
        return lambda batch: model.decode(batch).hidden

    def dense(batch: Batch) -> torch.Tensor:
        hidden: torch.Tensor = model.model(input_ids=whole_text(batch), use_cache=False).last_hidden_state
        return hidden[:, -batch.input_ids.shape[1] :]

    return dense


def _digits_right(model: PreTrainedModel, batch: Batch, hidden: torch.Tensor) -> np.ndarray:
    """(windows, DIGITS) whether the most likely token is the right digit, given final states (B, S, H)."""
    labels, weights = batch.labels[:, 1:], batch.weights
    assert weights is not None
    rows = []
    for i in range(len(labels)):
        first = int(weights[i, 1:].argmax())  # the first digit has the largest weight
        span = slice(first, first + DIGITS)
        logits = output_head(model)(hidden[i, span])
        rows.append((logits.argmax(-1) == labels[i, span]).cpu().numpy())
    return np.stack(rows)


def window_length(corpus: Corpus, chunks: int, size: int, running: int) -> int:
    """Tokens of a held-out window: room for 128K before the running text, so that all lengths score the same text.

    Less where the two longest documents have less, but never less than the `chunks` of `size` tokens take.
    """
    longest = int(np.sort(np.diff(corpus.starts))[-2:].min())
    return max(chunks * size, min(128 * 1024, longest - running)) + running


def held_out_windows(corpus: Corpus, length: int, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`count` windows from all documents in turn, and for each of them one from another document."""
    if count < 2:
        raise UserError(f"One window of {corpus.name} has no other one to lend it a context: ask for two or more.")
    documents = [i for i in range(corpus.documents) if len(corpus.document(i)) >= length]
    if len(documents) < 2:
        raise UserError(
            f"Too few documents of {corpus.name} have {length} tokens or more ({len(documents)}): the evaluation needs "
            "two of each --heldout file."
        )
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        document = corpus.document(documents[i % len(documents)])
        start = int(rng.integers(len(document) - length + 1))
        rows.append(np.asarray(document[start : start + length], dtype=np.int64))
    neighbours = [i + 1 if i + 1 < count else i - 1 for i in range(count)]
    return rows, [rows[j] for j in neighbours]


def _tensor(ids: np.ndarray, model: PreTrainedModel) -> torch.Tensor:
    return torch.from_numpy(ids.copy()).to(model.device)
