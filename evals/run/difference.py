"""Whether a run folder can take up the cells of a command, and else in what it differs from them, in words.

A run grows: other tasks, models and lengths may join it. What has one name must stay one thing, and what decides every
sample (seed, device, dtype, kernel) must be the same for all: else its tables would compare what cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.records.json import Json, dumps
from evals.records.models import CellState, RunMeta
from evals.run.grid import Cell
from evals.run.identity import SCHEMA, ModelChoice, cell_id, task_identity

EVERYWHERE = {
    "seed": "seed",
    "device": "device",
    "dtype": "dtype",
    "attn": "attn",
    "kernels": "the order of kernels",
    "random_weights": "--random-weights",
}
"""Fields of a run's specification that hold for all of its cells, and their names for people."""


def first_difference(recorded: RunMeta, spec: Json, cells: Sequence[Cell]) -> str | None:
    """The first thing that keeps a recorded run from taking up the cells, as a part of a sentence; None: nothing does.

    spec: the specification asked for, as JSON.
    """
    if recorded.identity_schema != SCHEMA:
        return f"it was made by a version with other cell ids (schema {recorded.identity_schema}, now {SCHEMA})"
    for field, name in EVERYWHERE.items():
        if found := _changed(name, recorded.spec.get(field), spec.get(field)):
            return found
    states = list(recorded.cells.values())
    for task in {cell.task.name: cell for cell in cells}.values():
        state = next((state for state in states if state.task == task.task.name), None)
        if state is not None and (found := _changed_task(state, task)):
            return found
    for choice in {cell.model.name: cell.model for cell in cells}.values():
        if found := _changed_model(recorded, spec, choice):
            return found
    if recorded.shard is not None:
        return (
            f"it is one of {recorded.shard.count} shards of another grid, or --limit and --no-perf split it otherwise"
        )
    return None


def _changed_task(state: CellState, cell: Cell) -> str | None:
    task, settings = cell.task.task, cell.task.task.settings.model_dump(mode="json")
    if state.task_version != task.version:
        return f"the version of {state.task} was {state.task_version}, now {task.version}"
    if found := _changed_setting(state.task, state.settings, settings):
        return found
    return f"the data files of {state.task} changed" if state.data != cell.task.data else None


def _changed_model(recorded: RunMeta, spec: Json, choice: ModelChoice) -> str | None:
    """A model is the one recorded if it gives the cells of its name the ids that they have."""
    cells = {cell: state for cell, state in recorded.cells.items() if state.model == choice.name}
    if all(cell == _id_of(state, choice, spec["seed"]) for cell, state in cells.items()):
        return None
    entry = recorded.models.get(choice.name)
    before = (entry.identity_parts if entry else None) or {}
    changed = [part for part, value in before.items() if choice.identity.get(part) != value]
    if changed == ["settings"]:
        return _changed_setting(choice.name, before["settings"], choice.identity["settings"])
    if "weights" in changed and (
        found := _changed("--checkpoint", recorded.spec.get("checkpoint"), spec["checkpoint"])
    ):
        return found
    return f"the {changed[0]} of {choice.name} changed" if changed else f"{choice.name} changed, or its method did"


def _id_of(state: CellState, choice: ModelChoice, seed: int) -> str:
    task = task_identity(state.task, state.task_version, state.settings, state.data)
    return cell_id(SCHEMA, choice.identity, task, state.length, seed)


def _changed_setting(owner: str, before: Mapping[str, object], now: Mapping[str, object]) -> str | None:
    for name in dict.fromkeys([*before, *now]):
        if found := _changed(f"{name} of {owner}", before.get(name), now.get(name)):
            return found
    return None


def _changed(name: str, before: object, now: object) -> str | None:
    return None if before == now else f"{name} was {_shown(before)}, now {_shown(now)}"


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "given" if value else "not given"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "not given"
    return dumps(value) if isinstance(value, dict) else str(value)
