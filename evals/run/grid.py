"""From a specification to cells: model x task x length, each with an id made of all that decides its samples.

A cell depends on nothing but its own settings, so any machine may run it, and a larger `--limit` later goes
on with the same cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evals import registry
from evals.errors import UserError, unknown, unreadable
from evals.methods import presets, weights
from evals.methods.base import LongContextModel, Runtime
from evals.methods.presets import Preset
from evals.records.json import Json
from evals.records.models import CellState
from evals.run.spec import RunSpec
from evals.settings import for_keys, route, validate
from evals.tasks.base import BaseTask, TaskSettings
from evals.tasks.common.source import DataSource

SCHEMA = 1
"""Changes when the meaning of a cell's identity changes."""
BLOCK = 1 << 16


@dataclass(frozen=True)
class ModelChoice:
    """A preset with its final settings, the class of its method and where it runs."""

    preset: Preset
    method: type[LongContextModel]
    runtime: Runtime

    @property
    def name(self) -> str:
        return self.preset.name

    @cached_property
    def identity(self) -> Json:
        """All that decides what the loaded model computes. The device does not: cells may move."""
        settings = self.preset.settings
        if self.method.settings_model:  # so that a default, written out or not, is the same
            settings = validate(self.method.settings_model, settings, self.name).model_dump(mode="json")
        return {
            "method": self.preset.method,
            "settings": settings,
            "weights": self._weights(),
            "dtype": self.runtime.dtype,
            "attn": " ".join((self.runtime.attn, *self.runtime.kernel_order)),
        }

    def _weights(self) -> Json:
        """What the parameters are: of the base, and of what was trained on top of it."""
        preset, runtime = self.preset, self.runtime
        found: Json = {}
        if runtime.checkpoint:
            found["base"] = preset.weights.source
            found["checkpoint"] = fingerprint(Path(runtime.checkpoint))
        else:
            found["base"] = weights.identity(preset.weights, runtime, preset.shape)
        if preset.adapter:
            folder = preset.adapter.folder()
            found["adapter"] = [preset.adapter.source, preset.adapter.revision]
            found["adapter_files"] = fingerprint(folder) if folder and folder.exists() else None
        return found

    def check(self) -> None:
        """Fetch hub weights, convert embedded ones. Raises UserError where they are missing."""
        if self.runtime.random_weights:
            if not self.preset.shape:
                raise UserError(f"--random-weights: the preset {self.name} has no `shape`; choose another model.")
        else:
            if self.runtime.checkpoint is None or self.preset.adapter:
                weights.resolve(self.preset.weights, replace(self.runtime, checkpoint=None))
            if self.preset.adapter:
                self.preset.adapter_folder(self.runtime.checkpoint)


@dataclass(frozen=True)
class TaskChoice:
    """A task (one subset of it) with its settings. name is `task` or `task:subset`."""

    name: str
    task: BaseTask
    identity: Json


@dataclass(frozen=True)
class Cell:
    """One entry of the grid."""

    model: ModelChoice
    task: TaskChoice
    length: int | None
    seed: int

    @property
    def identity(self) -> Json:
        return {
            "schema": SCHEMA,
            "model": self.model.identity,
            "task": self.task.identity,
            "length": self.length,
            "seed": self.seed,
        }

    @cached_property
    def id(self) -> str:
        return digest(self.identity)[:16]

    def state(self) -> CellState:
        """The cell as `run.json` lists it before it has run."""
        task = self.task.task
        return CellState(
            model=self.model.name,
            task=self.task.name,
            length=self.length,
            settings=self.task.identity["settings"],
            task_version=task.version,
            metric=task.metric,
            higher_is_better=task.higher_is_better,
            max_context=self.model.preset.max_context,
        )


def digest(value: object) -> str:
    """sha256 of the canonical JSON of a value: sorted keys, no white space, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """Hash of a file or of all files in a folder: names, sizes and sixteen blocks spread over each.

    Raises UserError for a file that cannot be read.
    """
    parts = []
    try:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            size = file.stat().st_size
            content = hashlib.sha256()
            with file.open("rb") as stream:
                for i in range(16):
                    stream.seek(max(size - BLOCK, 0) * i // 15)
                    content.update(stream.read(BLOCK))
            parts.append([file.relative_to(path).as_posix(), size, content.hexdigest()])
    except OSError as error:
        raise unreadable(error.filename or path, error) from error
    return digest(parts)


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
        ModelChoice(preset.override(for_keys(routed.model, keys[preset.name])), methods[preset.name], spec.runtime())
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
    registry.method(str(method))  # a name that nobody knows is told at once
    return [presets.load_preset(name, str(method)) for name in spec.models], settings


def _lengths(spec: RunSpec, task: BaseTask) -> Sequence[int | None]:
    return spec.lengths or task.lengths or [None]


def check(cells: Sequence[Cell]) -> None:
    """Find missing weights and data before anything runs. Raises one UserError with a sentence for each."""
    problems = []
    models = {cell.model.name: cell.model.check for cell in cells}
    tasks = {cell.task.name: cell.task.task.check for cell in cells}
    for check_part in (*models.values(), *tasks.values()):
        try:
            check_part()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two models have the name {twice[0]}: give every preset file its own `name`.")


def _check_paths(spec: RunSpec) -> None:
    if spec.checkpoint is not None and len(spec.models) > 1:
        raise UserError("--checkpoint goes with one model: for a grid, name each folder in a preset file.")
    for option, path in (("--checkpoint", spec.checkpoint), ("--data-dir", spec.data_dir)):
        if path is not None and not path.exists():
            raise UserError(f"{option} {path} does not exist: name an existing folder.")


def _tasks(name: str, cls: type[BaseTask], settings: Mapping[str, object], spec: RunSpec) -> list[TaskChoice]:
    """One choice a subset; a bare name stands for all of them."""
    base, _, subset = name.partition(":")
    if subset and subset not in cls.subsets:
        raise unknown(f"subset of {base}", subset, cls.subsets, f"--list --task {base}")
    subsets: list[str | None] = [subset] if subset else [*cls.subsets] or [None]
    chosen = validate(cls.settings_model, for_keys(settings, cls.settings_model.model_fields), base)
    return [_task(base, cls, s, chosen, spec) for s in subsets]


def _task(base: str, cls: type[BaseTask], subset: str | None, settings: TaskSettings, spec: RunSpec) -> TaskChoice:
    source = DataSource(data_dir=spec.data_dir, offline=spec.offline)
    identity = {
        "name": base,
        "subset": subset,
        "version": cls.version,
        "settings": settings.model_dump(mode="json"),
        "data": fingerprint(spec.data_dir) if spec.data_dir else None,
    }
    return TaskChoice(f"{base}:{subset}" if subset else base, cls(subset, settings, source), identity)


def _model_keys(method: type[LongContextModel], preset: Preset) -> set[str]:
    declared = method.settings_model.model_fields if method.settings_model else ()
    return {*declared, *preset.settings}
