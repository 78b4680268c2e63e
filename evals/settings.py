"""`--set key=value`: each setting goes to the tasks or the models that declare its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evals.errors import UserError, unknown


@dataclass(frozen=True)
class Routed:
    """Settings by side; `for_keys` picks those that one task or one model declares."""

    task: Mapping[str, object]
    model: Mapping[str, object]


def route(settings: Mapping[str, object], task_keys: Iterable[str], model_keys: Iterable[str]) -> Routed:
    """Split settings over the two sides.

    task_keys, model_keys: every key that some task, some model of the grid declares. A key that both declare
    must be written `task.key` or `model.key`. Raises UserError for that, and for a key that nobody declares.
    """
    known = {"task": set(task_keys), "model": set(model_keys)}
    routed: dict[str, dict[str, object]] = {"task": {}, "model": {}}
    for name, value in settings.items():
        prefix, _, rest = name.partition(".")
        side, key = (prefix, rest) if prefix in known and rest else (None, name)
        sides = [s for s in ([side] if side else known) if key in known[s]]
        if not sides:
            names = known[side] if side else known["task"] | known["model"]
            raise unknown("setting", key, names, "--list --task TASK --model MODEL")
        if len(sides) > 1:
            raise UserError(f"--set {key} is a setting of the task and of the model: write task.{key} or model.{key}.")
        routed[sides[0]][key] = value
    return Routed(routed["task"], routed["model"])


def for_keys(settings: Mapping[str, object], keys: Iterable[str]) -> dict[str, object]:
    """Those of the settings that `keys` names: the other tasks of a grid keep theirs."""
    keys = set(keys)
    return {key: value for key, value in settings.items() if key in keys}
