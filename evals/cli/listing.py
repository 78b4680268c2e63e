"""What `--list` shows: every task and model, or the settings of those that are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import cleandoc

from pydantic import BaseModel
from rich.console import Console, Group

from evals import registry
from evals.cli.tables import Column, add_row, fitted, new_table, plain
from evals.methods import presets
from evals.methods.packages import FETCHED, missing
from evals.methods.presets.presence import is_here


def show(tasks: Sequence[str], models: Sequence[str], out: Console) -> None:
    """Print tables and, as the last line, the names as JSON. Only the tasks and models that are named are imported."""
    if tasks or models:
        for name in tasks:
            _show_task(name.partition(":")[0], out)
        for name in models:
            _show_model(name, out)
        return
    known = [presets.load_preset(name) for name in presets.names()]
    _print(
        out,
        [
            Column("model", [preset.name for preset in known], left=True),
            Column("method", [preset.method for preset in known], left=True, rank=2),
            Column("window", [_tokens(preset.max_context) for preset in known]),
            Column("weights", [_weights(preset) for preset in known], left=True, rank=1, least=20),
            Column("here", [_here(preset) for preset in known], left=True),
            Column("description", [preset.description for preset in known], left=True, rank=3, least=30),
        ],
    )
    table = new_table(("task", "description"), left=("task", "description"))
    for name, target in registry.tasks().items():
        add_row(table, name, registry.ABOUT.get(name) or f"of the package {target.partition('.')[0].partition(':')[0]}")
    out.print(table)
    for package in FETCHED:
        if advice := missing(package):
            out.print(plain(advice))
    names = {"models": [preset.name for preset in known], "tasks": list(registry.tasks())}
    out.file.write(json.dumps(names) + "\n")


def _print(out: Console, columns: Sequence[Column]) -> None:
    table, lost = fitted(columns, out.width)
    out.print(table)
    if lost:
        out.print(plain(f"No room for {', '.join(lost)}: `--list --model NAME` shows all of one."))


def _here(preset: presets.Preset) -> str:
    """Whether the weights, and the adapter where there is one, are on this machine."""
    parts = [part for part in (preset.weights, preset.adapter) if part is not None]
    return "yes" if all(map(is_here, parts)) else "no"


def _tokens(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count // 1024}K" if count % 1024 == 0 else str(count)


def _weights(preset: presets.Preset) -> str:
    return ", ".join(preset.weights.facts)


def _show_task(name: str, out: Console) -> None:
    cls = registry.task(name)
    out.print(plain(f"task {name}, version {cls.version}, metric {cls.metric}"))
    if cls.subsets:
        out.print(plain("subsets: " + ", ".join(cls.subsets)))
    out.print(_settings(cls.settings_model, {}))


def _show_model(name: str, out: Console) -> None:
    preset = presets.load_preset(name)
    cls = registry.method(preset.method)
    out.print(plain(f"model {name}: {preset.description}"))
    facts = [*([_weights(preset)] if preset.weights.facts else []), "here" if _here(preset) == "yes" else "not here"]
    out.print(plain(f"weights: {preset.weights.source} ({', '.join(facts)})"))
    if preset.max_context:
        out.print(plain(f"window: {_tokens(preset.max_context)} tokens"))
    if preset.weights.kind == "package" and (advice := missing(preset.weights.name.partition("/")[0])):
        out.print(plain(advice))
    out.print(_settings(cls.settings_model, cls.settings_in_force(preset)))


def _as_set(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_as_set, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _settings(model: type[BaseModel] | None, values: Mapping[str, object]) -> Group:
    """What the settings are about, and each with its value in the preset, or its default. Those that are null and do
    not say what they mean, as kvpress's many, share a line.
    """
    fields = model.model_fields if model else {}
    described = any(field.description for field in fields.values())
    columns = ["--set", "value", *(["meaning"] if described else [])]
    table, unset = new_table(columns, left=columns), []
    for key in dict.fromkeys([*fields, *values]):
        field = fields.get(key)
        default = field.get_default(call_default_factory=True) if field and not field.is_required() else ""
        value, meaning = values.get(key, default), field.description or "" if field else ""
        if described and not meaning and value is None:
            unset.append(key)
        else:
            add_row(table, key, _as_set(value), *([meaning] if described else []))
    rest = [plain(f"null: {', '.join(unset)}\n")] if unset else []
    return Group(plain(cleandoc(model.__doc__ or "") if model else ""), table, *rest)
