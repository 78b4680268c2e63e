"""Whether prompts can be made: tried with chat templates and the first samples of lengths, before a model is loaded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods import weights
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.tasks.base import Task
from evals.tasks.settings.chat import ChatSettings, in_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_room(cells: Sequence[Cell]) -> None:
    """Try chat templates, and to make a sample of every cell that its task has `tried`, with the tokenizers that are on
    this machine.

    Nothing is fetched. Raises one UserError with a sentence for each template that does not do what is asked, and each
    length that holds no sample.
    """
    tokenizers: dict[Hashable, PreTrainedTokenizerBase | None] = {}
    tried: set[Hashable] = set()
    problems: list[str] = []
    for cell in cells:
        source = _tokenizer_source(cell.model)
        if not _is_tried(cell) or (source, cell.task.name, cell.length) in tried:
            continue
        tried.add((source, cell.task.name, cell.length))
        if source not in tokenizers:
            tokenizers[source] = _tokenizer(cell.model)
        tokenizer = tokenizers[source]
        if tokenizer is None:
            continue
        try:
            _try(cell, tokenizer)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(" ".join(dict.fromkeys(problems)))


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
