"""Whether settings fit a model, and what a task asks fits the method, by what the method itself says of a shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from evals.errors import UnfitError, UserError
from evals.methods.base import LongContextModel
from evals.run.checks.together import all_of
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.run.on_meta import on_meta
from evals.tasks.base import Task
from sharedllm.validation import validate


def check_settings(choice: ModelChoice) -> None:
    """Raises UserError for settings that a load would refuse, as far as the preset says what the model is: its shape
    is that of its own weights, not of what `--checkpoint` names or an adapter makes of them.
    """
    preset, runtime = choice.preset, choice.runtime
    if choice.method.settings_model:
        validate(choice.method.settings_model, preset.settings, choice.name)
    if not runtime.random_weights and (runtime.checkpoint or preset.adapter):
        return
    try:
        on_meta(choice, preset, runtime)
    except UnfitError:
        raise
    except Exception:  # packages and files may be where the run will be: only settings are judged here
        return


def check_fit(cells: Sequence[Cell]) -> None:
    """Raises one UserError with a sentence for each model that no request of a task fits, for a plan.

    Tasks that do not know their queries beforehand, and models whose shape the preset does not tell, are left out.
    """
    asked = [(cell, query) for cell in cells if (query := _query_tokens(cell)) is not None]
    choices = {cell.model.name: cell.model for cell, _ in asked}
    shapes = {name: _shape(choice) for name, choice in choices.items()}
    all_of(partial(_check_request, shapes[cell.model.name], cell, query) for cell, query in asked)


def _query_tokens(cell: Cell) -> int | None:
    """Tokens that the task asks besides the context; None where it does not know them beforehand."""
    task, length = cell.task.task, cell.length
    return task.query_tokens(length) if isinstance(task, Task) and length is not None else None


def _check_request(model: LongContextModel | None, cell: Cell, query: int) -> None:
    assert cell.length is not None
    try:
        if model is not None:
            model.cost(cell.length - query, query)
    except UserError as error:
        raise UserError(f"{cell.task.name} with {cell.model.name}: {error}") from error


def _shape(choice: ModelChoice) -> LongContextModel | None:
    """The model without numbers; None where that cannot be made, or is not that of the weights that will be loaded."""
    preset, runtime = choice.preset, choice.runtime
    if not runtime.random_weights and (runtime.checkpoint or preset.adapter):
        return None
    try:
        return on_meta(choice, preset, runtime)
    except Exception:  # packages and files may be where the run will be
        return None
