"""Whether prompts can be made: tried with chat templates and the first samples of lengths, before a model is loaded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods import weights
from evals.run.checks.together import all_of
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.tasks.base import Task
from evals.tasks.settings.chat import ChatSettings, in_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_prompts(cells: Sequence[Cell]) -> None:
    """Try chat templates, and to make a sample of every cell that its task has `tried`, with the tokenizers that are on
    this machine.

    Nothing is fetched. Raises one UserError with a sentence for each template that does not do what is asked, and each
    length that holds no sample.
    """
    alike: dict[tuple[Hashable, str, int | None], Cell] = {}
    for cell in cells:
        if _is_tried(cell):
            alike.setdefault((_tokenizer_source(cell.model), cell.task.name, cell.length), cell)
    models = {source: cell.model for (source, *_), cell in alike.items()}
    tokenizers = {source: _tokenizer(model) for source, model in models.items()}
    all_of(
        partial(_try, cell, tokenizer)
        for (source, *_), cell in alike.items()
        if (tokenizer := tokenizers[source]) is not None
    )


def _is_tried(cell: Cell) -> bool:
    task, length = cell.task.task, cell.length
    return isinstance(task, Task) and (in_template(task.settings) or (length is not None and task.tried(length)))


def _try(cell: Cell, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError where the template cannot be used, or the length holds no sample."""
    task = cell.task.task
    assert isinstance(task, Task)
    if isinstance(task.settings, ChatSettings) and in_template(task.settings):
        try:
            _ = task.settings.builder(tokenizer).turn
        except UserError as error:
            raise UserError(f"{cell.model.name}: {error}") from error
    if cell.length is not None and task.tried(cell.length):
        cell.task.check_room_here(tokenizer, cell.length, cell.seed)


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
