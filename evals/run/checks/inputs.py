"""Weights, data, lengths, GPUs: whether all that cells need is there, and whether they can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from evals.errors import UserError
from evals.measure.task import MeasuredTask
from evals.methods import weights
from evals.run.checks.fit import check_settings
from evals.run.checks.together import all_of
from evals.run.grid import Cell


def check(cells: Sequence[Cell]) -> None:
    """Find missing weights and data before anything runs. Raises one UserError with a sentence for each."""
    models = {cell.model.name: cell.model.check for cell in cells}
    tasks = {cell.task.name: cell.task.task.check for cell in cells}
    lengths = {(cell.task.name, cell.length): partial(cell.task.task.check_length, cell.length) for cell in cells}
    served = [partial(_check_served, cell) for cell in cells]
    all_of([*served, *models.values(), *tasks.values(), *lengths.values()])


def check_here(cells: Sequence[Cell]) -> None:
    """What `check` finds, for a plan: nothing is loaded or fetched, so weights and data of the hub, and adapters that
    are still to be made, may be missing. Raises as `check`.
    """
    choices = {cell.model.name: cell.model for cell in cells}.values()
    models = [check for choice in choices for check in (partial(check_settings, choice), choice.check_here)]
    tasks = {cell.task.name: cell.task.check_here for cell in cells}
    lengths = {(cell.task.name, cell.length): partial(cell.task.check_length_here, cell.length) for cell in cells}
    served = [partial(_check_served, cell) for cell in cells]
    all_of([*served, *models, *tasks.values(), *lengths.values()])


def check_gpus(cells: Sequence[Cell], most: int, place: str = "this run") -> None:
    """Raises UserError where a model is to be spread over more GPUs than one machine has. most: GPUs of a machine."""
    for model in {cell.model.name: cell.model for cell in cells}.values():
        weights.check_count(model.preset.gpus, most, model.name, place)


def check_unique(cells: Sequence[Cell]) -> None:
    """Raises UserError where two models of a run are the same: their records could not be told apart."""
    known: dict[str, Cell] = {}
    for cell in cells:
        other = known.setdefault(cell.id, cell)
        if other is not cell:
            raise UserError(
                f"The models {other.model.name} and {cell.model.name} have equal settings and weights: leave one out."
            )


def _check_served(cell: Cell) -> None:
    """Raises UserError where the task of a cell needs more of a served model than its answers."""
    task, model = cell.task, cell.model.name
    if not cell.model.method.remote:
        return
    if isinstance(task.task, MeasuredTask):
        raise UserError(
            f"{task.name} measures memory and arithmetic, which are not known of {model}, a served model: leave it "
            "out; its answered tasks have its times."
        )
    if not task.task.answer_tokens():
        raise UserError(
            f"{task.name} needs log-probabilities of a given text, and a server gives {model} none: leave one of "
            "them out, or load the weights here with the method full."
        )
