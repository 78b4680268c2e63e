"""What a run learns from, step by step: examples, or windows of text and of hidden needles in their shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.training.batches import Batch, LanguageModelling, check_repeats
from sharedllm.training.corpus import Corpus, open_corpus
from sharedllm.training.files import TOKENS, Files
from sharedllm.training.needles import Needles, Shape
from sharedllm.training.settings import NeedleStage, TrainSettings, check_size
from sharedllm.training.sft import FineTuning, read_examples


def batch_maker(
    settings: TrainSettings, files: Files, tokenizer: PreTrainedTokenizerBase, chunk_size: int
) -> Callable[[int, int], Batch]:
    """(micro step, rank) -> batch, the same whenever it is called. chunk_size: in tokens. Files of weight 0
    are in none.

    Raises UserError for settings that do not fit the data or a host's memory.
    """
    if not files.data:
        raise UserError("There is nothing to learn from: give --data.")
    if settings.mode == "sft":
        tune = _fine_tuning(settings, files, tokenizer, chunk_size)
        return lambda step, rank: tune(np.random.default_rng([settings.seed, step, rank]))
    _check_sizes(settings, chunk_size)
    weights = files.weights or [1.0] * len(files.data)
    used = [path for path, weight in zip(files.data, weights, strict=True) if weight]
    corpora = [open_corpus(path, tokenizer, files.output / TOKENS) for path in used]
    lm = LanguageModelling(
        corpora,
        [weight for weight in weights if weight],
        settings.windows,
        settings.chunks,
        settings.running,
        chunk_size,
        settings.gap_share,
        settings.max_chunks,
        settings.drop_context,
        settings.repeat_share,
    )
    needles = _needles(settings, corpora, tokenizer, chunk_size)

    def hidden(stage: NeedleStage, rng: np.random.Generator) -> Batch:
        return needles[settings.room(stage)](rng, Shape(stage.windows, stage.chunks, stage.needles, stage.questions))

    for stage in settings.needles:  # what has no room in a window is told before the first step
        hidden(stage, np.random.default_rng(settings.seed))

    def make(step: int, rank: int) -> Batch:
        rng = np.random.default_rng([settings.seed, step, rank])
        place = np.random.default_rng([settings.seed, step, 1 << 20]).random()  # every rank the same kind
        for stage in settings.needles:
            if place < stage.share:
                return hidden(stage, rng)
            place -= stage.share
        return lm(rng)

    return make


def _fine_tuning(
    settings: TrainSettings, files: Files, tokenizer: PreTrainedTokenizerBase, chunk_size: int
) -> FineTuning:
    check_size("sft_batch", settings.sft_batch, settings.sft_max_chunks * chunk_size + settings.sft_running)
    examples = [e for path in files.data for e in read_examples(path, tokenizer)]
    return FineTuning(examples, settings.sft_batch, chunk_size, settings.sft_max_chunks, settings.sft_running)


def _check_sizes(settings: TrainSettings, chunk_size: int) -> None:
    """Raise UserError for batches of too many tokens, and for windows without room for what they repeat."""
    for chunks in settings.chunks:
        windows = max(1, settings.windows * settings.chunks[0] // chunks)
        check_size("windows", windows, chunks * chunk_size + settings.running)
    for stage in settings.needles:
        check_size("needles", stage.windows, stage.chunks * chunk_size + settings.room(stage))
    if settings.repeat_share:
        check_repeats(chunk_size, settings.running)


def _needles(
    settings: TrainSettings, corpora: Sequence[Corpus], tokenizer: PreTrainedTokenizerBase, chunk_size: int
) -> Mapping[int, Needles]:
    """By the running text of a stage where its needles come from: texts that all windows and running texts fit into.

    Raises UserError where no document is as long.
    """
    reach = max((max(stage.chunks * chunk_size, settings.room(stage)) for stage in settings.needles), default=0)
    long = [corpus for corpus in corpora if np.diff(corpus.starts).max() > reach]
    if not long:
        raise UserError(f"No document of the data has {reach} tokens, which the longest needle windows take.")
    return {
        room: Needles(tokenizer, long, chunk_size, room, settings.gap_share, settings.max_chunks)
        for room in {settings.room(stage) for stage in settings.needles}
    }
