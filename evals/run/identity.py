"""What decides the samples of a cell: the parts that its id is a hash of.

Every byte of the files that a method or task reads counts, and nothing else in their folders does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UnfitError, UserError
from evals.hashing import digest_of_tree
from evals.methods import weights
from evals.methods.base import LongContextModel, Runtime
from evals.methods.presets import Preset, Weights
from evals.methods.presets.presence import is_here
from evals.records.json import Json
from evals.records.read import RUN_FILE
from evals.tasks.base import BaseTask, Task
from evals.tasks.common.hub import NotHereError
from sharedllm.validation import validate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA = 2
"""Changes when the meaning of a cell's identity changes.

1: blocks of all files in the data folder and in a checkpoint. 2: every byte of the files that are read.
"""


@dataclass(frozen=True)
class ModelChoice:
    """A preset with its final settings, the class of its method and where it runs."""

    preset: Preset
    method: type[LongContextModel]
    runtime: Runtime

    @classmethod
    def of(cls, preset: Preset, method: type[LongContextModel], runtime: Runtime) -> ModelChoice:
        """A preset on as many GPUs as it says. Raises UserError where the method runs on one."""
        if preset.gpus > 1 and not method.spreads:
            raise UnfitError(f"{preset.name} with gpus={preset.gpus}: its method runs on one GPU; set gpus=1.")
        return cls(preset, method, replace(runtime, gpus=preset.gpus))

    @property
    def name(self) -> str:
        """Name of the model in every table."""
        return self.preset.name

    @cached_property
    def identity(self) -> Json:
        """All that decides what the loaded model computes. The device does not: cells may move."""
        settings = self.preset.settings
        if self.method.settings_model:  # so that a default, written out or not, is the same
            settings = validate(self.method.settings_model, settings, self.name).model_dump(mode="json")
        if self.method.remote:
            return {
                "method": self.preset.method,
                "settings": settings,
                "tokenizer": weights.tokenizer_identity(self.preset.weights, self.runtime),
                "server": self.method.described(self.preset),
            }
        files = self.method.files(self.preset)
        return {
            "method": self.preset.method,
            "settings": settings,
            "weights": self._weights(),
            "dtype": self.runtime.dtype,
            "attn": " ".join((self.runtime.attn, *self.runtime.kernel_order)),
            **({"files": [digest_of_files(path, [path]) for path in files]} if files else {}),
        }

    def _weights(self) -> Json:
        """What the parameters are: of the base, and of what was trained on top of it.

        `--checkpoint` names the base's weights, or the adapter where the preset has one.
        """
        preset, runtime = self.preset, self.runtime
        if preset.adapter is None:
            return {"base": weights.identity(preset.weights, runtime, preset.shape)}
        folder = Path(runtime.checkpoint) if runtime.checkpoint else preset.adapter.folder()
        here = folder is not None and folder.is_dir()
        return {
            "base": weights.identity(preset.weights, replace(runtime, checkpoint=None), preset.shape),
            "adapter": None if runtime.checkpoint else [preset.adapter.source, preset.adapter.revision],
            "adapter_files": digest_of_files(folder, [folder]) if folder is not None and here else None,
        }

    def check(self) -> None:
        """Fetch hub weights, convert embedded ones. Raises UserError where they are missing."""
        self._check_random()
        if self.method.remote:
            weights.resolve_tokenizer(self.preset.weights, self.runtime)
        elif not self.runtime.random_weights:
            if self.runtime.checkpoint is None or self.preset.adapter:
                weights.resolve(self.preset.weights, replace(self.runtime, checkpoint=None))
            self._check_base()
            self._check_adapter()

    def check_here(self) -> None:
        """Check weights and an adapter that are here: nothing is loaded, fetched or converted.

        Raises UserError for what a load would refuse, as far as no weight is needed to tell.
        """
        self._check_random()
        if not (self.runtime.random_weights or self.method.remote):
            self._check_base()
            if not self._absent:
                self._check_adapter()

    def _check_random(self) -> None:
        """Raises UserError where random weights are asked for and there cannot be any."""
        if self.runtime.random_weights and self.method.remote:
            raise UserError(f"--random-weights: the weights of {self.name} are on its server; choose another model.")
        if self.runtime.random_weights and not self.preset.shape:
            raise UserError(f"--random-weights: the preset {self.name} has no `shape`; choose another model.")

    @property
    def missing(self) -> dict[str, str]:
        """Where a run would look for weights and an adapter that are not there and that nothing fetches."""
        preset, runtime = self.preset, self.runtime
        if runtime.random_weights or self.method.remote:
            return {}
        base = None if (runtime.checkpoint and not preset.adapter) or is_here(preset.weights) else preset.weights
        absent = {"weights": base, "adapter": self._absent}
        return {part: found.source for part, found in absent.items() if found is not None and found.kind != "hub"}

    @property
    def _absent(self) -> Weights | None:
        """The preset's adapter, where it is used and not here."""
        adapter = self.preset.adapter
        return None if adapter is None or self.runtime.checkpoint or is_here(adapter) else adapter

    def _check_base(self) -> None:
        """The weights that an adapter is laid over, or that are all there is."""
        preset, runtime = self.preset, self.runtime
        if preset.adapter is None:
            weights.check_here(preset.weights, runtime, self.method.check_checkpoint if self.method.own_class else None)
        else:
            weights.check_here(preset.weights, replace(runtime, checkpoint=None))

    def _check_adapter(self) -> None:
        preset, runtime = self.preset, self.runtime
        if preset.adapter is None:
            return
        folder = preset.adapter_folder(runtime.checkpoint)
        record = self.method.inspect_adapter(preset, folder)
        if record is not None:
            from sharedllm.base_identity import check_stored_base  # torch, which a cell's id does not need

            check_stored_base(weights.stored(preset.weights, runtime), folder, record.base, record.base_values)


@dataclass(frozen=True)
class TaskChoice:
    """A task (one subset of it) with its settings. name is `task` or `task:subset`."""

    name: str
    task: BaseTask

    def check_here(self) -> None:
        """`task.check` without a download: what the hub may have can be missing. Raises UserError."""
        self._here(lambda task: task.check())

    def check_length_here(self, length: int | None) -> None:
        """`task.check_length` without a download. Raises UserError."""
        self._here(lambda task: task.check_length(length))

    def check_room_here(self, tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> None:
        """`Task.check_room` without a download. Raises UserError."""

        def make(task: BaseTask) -> None:
            assert isinstance(task, Task)
            task.check_room(tokenizer, length, seed)

        self._here(make)

    def _here(self, check: Callable[[BaseTask], None]) -> None:
        """A check, with the hub as it is for an offline run. What such a run would miss is no fault of another one."""
        try:
            check(self._offline)
        except NotHereError:
            if self.task.data.offline:
                raise

    @cached_property
    def _offline(self) -> BaseTask:
        """The task for checks that fetch nothing; one for all of them, so that each file is read once."""
        task = copy(self.task)
        task.data = replace(task.data, offline=True)
        return task

    @cached_property
    def data(self) -> str | None:
        """Hash of the data files that the task reads below `--data-dir`; None without one."""
        folder = self.task.data.data_dir
        return digest_of_files(folder, self.task.files()) if folder else None

    @cached_property
    def identity(self) -> Json:
        """All that decides what is asked and how it is scored."""
        return task_identity(self.name, self.task.version, self.task.settings.model_dump(mode="json"), self.data)


def task_identity(name: str, version: int, settings: Json, data: str | None) -> Json:
    """What is asked and how it is scored. name: with its subset. data: hash of the files below `--data-dir`."""
    base, _, subset = name.partition(":")
    return {"name": base, "subset": subset or None, "version": version, "settings": settings, "data": data}


def cell_id(schema: int, model: Json, task: Json, length: int | None, seed: int) -> str:
    """The id of a cell. schema: of the identities, since runs of an earlier one keep theirs."""
    return digest({"schema": schema, "model": model, "task": task, "length": length, "seed": seed})[:16]


def digest(value: object) -> str:
    """sha256 of the canonical JSON of a value: sorted keys, no white space, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def digest_of_files(root: Path, paths: Sequence[Path]) -> str:
    """Hash of names and bytes of files at or below `root`; a folder stands for the files in it.

    Hidden files and folders, Markdown, and folders that hold a run are left out. Raises UserError for a file that
    cannot be read.
    """
    files = sorted({file for path in paths for file in files_below(path)})
    return digest_of_tree(root if root.is_dir() else root.parent, files)


def files_below(path: Path) -> Iterator[Path]:
    """A file, or the files of a folder that can be data; in no order."""
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        if RUN_FILE in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (Path(folder, name) for name in names if not name.startswith(".") and not name.endswith(".md"))
        yield from (file for file in files if file.is_file())
