"""Whether lengths hold a sample: tried with the first ones of short cells, before a model is loaded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods import weights
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT = 4096
"""Tokens beside twice the answer: a longer cell has room for all that is not context, so its prompts are not tried."""


def check_room(cells: Sequence[Cell]) -> None:
    """Try to make a sample of every short cell, with the tokenizers that are on this machine.

    Nothing is fetched. Raises one UserError with a sentence for each length that holds no sample.
    """
    tokenizers: dict[Hashable, PreTrainedTokenizerBase | None] = {}
    tried: set[Hashable] = set()
    problems: list[str] = []
    for cell in cells:
        task, length = cell.task.task, cell.length
        if not isinstance(task, Task) or length is None or length > SHORT + 2 * task.answer_tokens():
            continue
        source = _tokenizer_source(cell.model)
        if not task.made_to(length) or (source, cell.task.name, length) in tried:
            continue
        tried.add((source, cell.task.name, length))
        if source not in tokenizers:
            tokenizers[source] = _tokenizer(cell.model)
        tokenizer = tokenizers[source]
        if tokenizer is None:
            continue
        try:
            cell.task.check_room_here(tokenizer, length, cell.seed)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(" ".join(dict.fromkeys(problems)))


def _tokenizer_source(choice: ModelChoice) -> Hashable:
    """What decides the tokenizer of a model."""
    preset, runtime = choice.preset, choice.runtime
    shape = (preset.shape or {}).get("vocab_size") if runtime.random_weights else None
    return preset.weights.source, preset.weights.revision, None if preset.adapter else runtime.checkpoint, shape


def _tokenizer(choice: ModelChoice) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a load would give, if it is on this machine."""
    preset, runtime = choice.preset, replace(choice.runtime, offline=True)
    if preset.adapter:
        runtime = replace(runtime, checkpoint=None)
    try:
        if runtime.random_weights:
            rows = (preset.shape or {}).get("vocab_size")
            return weights.random_tokenizer(preset.weights, runtime, rows) if isinstance(rows, int) else None
        folder = weights.tokenizer_folder(preset.weights, runtime)
        return None if folder is None else weights.load_tokenizer(folder)
    except UserError:  # a load will say what is wrong with it
        return None
