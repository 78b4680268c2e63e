"""`--set key=value`: each setting goes to the tasks or the models that declare its key. And settings of both sides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints

from evals.errors import UserError, unknown

SECRET = re.compile(r"api.?key|authorization|password|secret", re.IGNORECASE)
"""Names of fields that hold a key."""


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query or parts.fragment:  # settings are recorded
        raise ValueError("it holds more than host, port and path: a key belongs in an environment variable")
    return url


def _without_keys(fields: dict[str, object]) -> dict[str, object]:
    for name in fields:
        if SECRET.search(name):
            raise ValueError(f"its field {name} would be recorded: a key belongs in an environment variable")
    return fields


PlainUrl = Annotated[str, AfterValidator(_plain_url)]
"""The address of a server's API, without a secret in it."""
RequestFields = Annotated[dict[str, object], AfterValidator(_without_keys)]
"""Fields added to the requests to a server; they are recorded, so a key is none of them."""
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""


def api_key(variable: str | None, setting: str) -> str | None:
    """The key that an environment variable holds; None without a variable.

    setting: which names the variable. Raises UserError where it is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UserError(f"The environment variable that {setting} names is not set: export it with the API key.")
    return key


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
