"""Whether a method has room for what a task asks it besides the context, by the method's own formula of cost."""

from __future__ import annotations

from collections.abc import Sequence

from evals.errors import UserError
from evals.methods.base import LongContextModel
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.run.on_meta import on_meta
from evals.tasks.base import Task


def check_fit(cells: Sequence[Cell]) -> None:
    """Raises one UserError with a sentence for each model that no request of a task fits, for a plan.

    Tasks that do not know their queries beforehand, and models whose shape the preset does not tell, are left out.
    """
    shapes: dict[str, LongContextModel | None] = {}
    problems = []
    for cell in cells:
        task, length, name = cell.task.task, cell.length, cell.model.name
        query = task.query_tokens(length) if isinstance(task, Task) and length is not None else None
        if query is None or length is None:
            continue
        if name not in shapes:
            shapes[name] = _shape(cell.model)
        model = shapes[name]
        try:
            if model is not None:
                model.cost(length - query, query)
        except UserError as error:
            problems.append(f"{cell.task.name} with {name}: {error}")
    if problems:
        raise UserError(" ".join(dict.fromkeys(problems)))


def _shape(choice: ModelChoice) -> LongContextModel | None:
    """The model without numbers; None where that cannot be made, or is not that of the weights that will be loaded."""
    preset, runtime = choice.preset, choice.runtime
    if not runtime.random_weights and (runtime.checkpoint or preset.adapter):
        return None
    try:
        return on_meta(choice, preset, runtime)
    except Exception:  # packages and files may be where the run will be
        return None
