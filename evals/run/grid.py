"""From a specification to cells: model x task x length, each with an id made of all that decides its samples.

A cell depends on nothing but its own settings, so any machine may run it, and a larger `--limit` later goes
on with the same cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evals import registry
from evals.errors import UserError, unknown
from evals.methods import presets
from evals.methods.base import LongContextModel
from evals.methods.presets import Preset
from evals.methods.presets.model import GPUS
from evals.records.json import Json
from evals.records.models import CellState
from evals.run.identity import SCHEMA, ModelChoice, TaskChoice, cell_id
from evals.run.spec import RunSpec
from evals.settings import for_keys, route
from evals.tasks.base import BaseTask
from evals.tasks.common.source import DataSource
from sharedllm.validation import validate


@dataclass(frozen=True)
class Cell:
    """One entry of the grid."""

    model: ModelChoice
    task: TaskChoice
    length: int | None
    seed: int

    @cached_property
    def id(self) -> str:
        """Hash of all that decides the samples. Reads data and weights: after `check`."""
        return cell_id(SCHEMA, self.model.identity, self.task.identity, self.length, self.seed)

    def with_task(self, task: TaskChoice) -> Cell:
        """The same cell with another object for its task, of the same bytes: its id stays without reading them."""
        found = replace(self, task=task)
        vars(found)["id"] = self.id
        return found

    def state(self) -> CellState:
        """The cell as `run.json` lists it before it has run."""
        task = self.task.task
        return CellState(
            model=self.model.name,
            task=self.task.name,
            length=self.length,
            settings=task.settings.model_dump(mode="json"),
            task_version=task.version,
            metric=task.metric,
            higher_is_better=task.higher_is_better,
            max_context=self.model.preset.max_context,
            data=self.task.data,
        )


def plan(spec: RunSpec) -> list[Cell]:
    """All cells of the grid, models outermost. Names and settings are checked, nothing is loaded or fetched.

    Raises UserError for an unknown task, subset, model or setting.
    """
    _check_paths(spec)
    classes = {name: registry.task(name.partition(":")[0]) for name in spec.tasks}
    loaded, settings = _presets(spec)
    _check_names([preset.name for preset in loaded])
    methods = {preset.name: registry.method(preset.method) for preset in loaded}
    keys = {preset.name: _model_keys(methods[preset.name], preset) for preset in loaded}
    routed = route(
        settings,
        {key for task in classes.values() for key in task.settings_model.model_fields},
        {key for declared in keys.values() for key in declared},
    )
    tasks = [choice for name, cls in classes.items() for choice in _tasks(name, cls, routed.task, spec)]
    models = [
        ModelChoice.of(preset.override(for_keys(routed.model, keys[preset.name])), methods[preset.name], spec.runtime())
        for preset in loaded
    ]
    return [
        Cell(model, task, length, spec.seed)
        for model in models
        for task in tasks
        for length in _lengths(spec, task.task)
    ]


def _presets(spec: RunSpec) -> tuple[list[Preset], Json]:
    """The presets of the models, and the settings without `method`, which chooses that of folders and repositories."""
    settings = {key: value for key, value in spec.settings.items() if key not in ("method", "model.method")}
    method = spec.settings.get("method", spec.settings.get("model.method"))
    if method is None:
        return [presets.load_preset(name) for name in spec.models], settings
    if not any(presets.is_unnamed(name) for name in spec.models):
        raise UserError("--set method=... is for a folder or hub repository: these presets have their method already.")
    _check_method(str(method))
    return [presets.load_preset(name, str(method)) for name in spec.models], settings


def _check_method(name: str) -> None:
    """Raises UserError for a name that nobody knows, and for that of a press or rope, with where it belongs."""
    if name not in registry.methods():
        for preset in map(presets.load_preset, presets.names()):
            for key, value in preset.settings.items():
                if value == name:
                    given = f"--set method={preset.method} {key}={name}"
                    raise UserError(f"'{name}' is no method but a setting of {preset.method}: write {given}.")
    registry.method(name)


def _lengths(spec: RunSpec, task: BaseTask) -> Sequence[int | None]:
    lengths = spec.lengths or task.lengths
    return list(dict.fromkeys(lengths)) if lengths else [None]


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two models have the name {twice[0]}: give every preset file its own `name`.")


def _check_paths(spec: RunSpec) -> None:
    if spec.checkpoint is not None and len(spec.models) > 1:
        raise UserError("--checkpoint goes with one model: for a grid, name each folder in a preset file.")
    if spec.checkpoint is not None and spec.random_weights:
        raise UserError("--random-weights reads no --checkpoint: give one of them.")
    for option, path in (("--checkpoint", spec.checkpoint), ("--data-dir", spec.data_dir)):
        if path is not None and not _exists(path):
            raise UserError(f"{option} {path} does not exist: name an existing folder.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a folder that may not be entered
        return False


def _tasks(name: str, cls: type[BaseTask], settings: Mapping[str, object], spec: RunSpec) -> list[TaskChoice]:
    """One choice per subset; a bare name stands for all of them."""
    base, _, subset = name.partition(":")
    if subset and subset not in cls.subsets:
        raise unknown(f"subset of {base}", subset, cls.subsets, f"--list --task {base}")
    subsets: list[str | None] = [subset] if subset else [*cls.subsets] or [None]
    chosen = validate(cls.settings_model, for_keys(settings, cls.settings_model.model_fields), base)
    source = DataSource(data_dir=spec.data_dir, offline=spec.offline)
    return [TaskChoice(f"{base}:{s}" if s else base, cls(s, chosen, source)) for s in subsets]


def _model_keys(method: type[LongContextModel], preset: Preset) -> set[str]:
    declared = method.settings_model.model_fields if method.settings_model else ()
    return {*declared, *preset.settings, GPUS}
