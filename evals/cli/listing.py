"""What `--list` shows: every task and model, or the settings of those that are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any

from pydantic import BaseModel
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from evals import registry
from evals.methods import presets


def show(tasks: Sequence[str], models: Sequence[str], out: Console) -> None:
    """Print tables and, as the last line, the names as JSON. Named tasks and models are imported, others not."""
    if tasks or models:
        for name in tasks:
            _show_task(name.partition(":")[0], out)
        for name in models:
            _show_model(name, out)
        return
    known = [presets.load_preset(name) for name in presets.names()]
    table = Table("model", "method", "description", box=box.SIMPLE, pad_edge=False)
    for preset in known:
        table.add_row(preset.name, preset.method, preset.description)
    out.print(table)
    table = Table("task", "from", box=box.SIMPLE, pad_edge=False)
    for name, target in registry.tasks().items():
        table.add_row(name, target.partition(":")[0])
    out.print(table)
    names = {"models": [preset.name for preset in known], "tasks": list(registry.tasks())}
    out.file.write(json.dumps(names) + "\n")


def _show_task(name: str, out: Console) -> None:
    cls = registry.task(name)
    out.print(f"task {name}, version {cls.version}, metric {cls.metric}", highlight=False)
    if cls.subsets:
        out.print("subsets: " + ", ".join(cls.subsets), highlight=False)
    out.print(_settings(cls.settings_model, {}))


def _show_model(name: str, out: Console) -> None:
    preset = presets.load_preset(name)
    cls = registry.method(preset.method)
    out.print(f"model {name}: {preset.description}", highlight=False)
    out.print(_settings(cls.settings_model, cls.settings_in_force(preset)))


def _settings(model: type[BaseModel] | None, values: Mapping[str, Any]) -> Group:
    """What the settings are about, and each with its value in the preset, or its default."""
    fields = model.model_fields if model else {}
    described = any(field.description for field in fields.values())
    table = Table("--set", "value", *(["meaning"] if described else []), box=box.SIMPLE, pad_edge=False)
    for key in dict.fromkeys([*fields, *values]):
        field = fields.get(key)
        default = field.get_default(call_default_factory=True) if field and not field.is_required() else ""
        meaning = [field.description or "" if field else ""] if described else []
        table.add_row(key, str(values.get(key, default)), *meaning)
    return Group(Text(cleandoc(model.__doc__ or "") if model else ""), table)
