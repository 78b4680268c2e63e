"""In what a run folder differs from the run that was asked for: the reason why it is refused, in words."""

from __future__ import annotations

from collections.abc import Sequence

from evals.records.json import Json, dumps
from evals.records.models import CellState, RunMeta
from evals.run.grid import Cell
from evals.run.identity import SCHEMA

OPTIONS = {
    "tasks": "--task",
    "models": "--model",
    "lengths": "--length",
    "seed": "--seed",
    "settings": "--set",
    "device": "--device",
    "dtype": "--dtype",
    "attn": "--attn",
    "kernels": "--attn",
    "random_weights": "--random-weights",
    "checkpoint": "--checkpoint",
}
"""Fields of a run's specification that decide its cells, and the options that set them."""


def first_difference(recorded: RunMeta, spec: Json, cells: Sequence[Cell]) -> str:
    """The first thing in which a recorded run differs from the cells asked for, as a part of a sentence."""
    if recorded.identity_schema != SCHEMA:
        return f"made by a version with other cell ids (schema {recorded.identity_schema}, now {SCHEMA})"
    for field, option in OPTIONS.items():
        before, now = recorded.spec.get(field), spec.get(field)
        if before != now:
            return f"{option} was {_shown(before)}, now it is {_shown(now)}"
    states = {(state.model, state.task, state.length): state for state in recorded.cells.values()}
    for cell in cells:
        state = states.get((cell.model.name, cell.task.name, cell.length))
        if state is not None and (found := _changed_task(state, cell)):
            return found
    for choice in {cell.model.name: cell.model for cell in cells}.values():
        entry = recorded.models.get(choice.name)
        for part, value in (entry.identity_parts or {}).items() if entry else ():
            if choice.identity.get(part) != value:
                return f"the {part} of {choice.name} changed"
    if recorded.shard is not None:
        return f"another split into {recorded.shard.count} shards, which --limit and --no-perf decide too"
    return "a model's files changed, or a version of a method"


def _changed_task(state: CellState, cell: Cell) -> str | None:
    task = cell.task.task
    if state.task_version != task.version:
        return f"version {state.task_version} of {state.task} was measured, now it is version {task.version}"
    if state.settings != task.settings.model_dump(mode="json"):
        return f"other settings of {state.task}"
    return f"the data files of {state.task} changed" if state.data != cell.task.data else None


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "not given"
    if isinstance(value, dict):
        return " ".join(f"{key}={dumps(item)}" for key, item in value.items()) or "not given"
    return "not given" if value is None or value is False else "given" if value is True else str(value)
