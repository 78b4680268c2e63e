"""The data of lm-eval's tasks: why it cannot be loaded is said in a sentence that names the task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval.api.task import ConfigurableTask

from sharedllm.errors import reading

ADVICE = "check its name, run it once online, or let HF_HOME name a cache that holds it"


@contextmanager
def named_data() -> Iterator[None]:
    """Within it, data of a task that cannot be loaded is a UserError with the names of task and data set."""
    download = ConfigurableTask.download

    def named(task: ConfigurableTask, *given: Any, **more: Any) -> None:
        parts = (task.DATASET_PATH, task.DATASET_NAME)
        data = "/".join(str(part) for part in parts if part)
        with reading(f"The data set {data} of the task {task.config.task}", ADVICE):
            download(task, *given, **more)

    ConfigurableTask.download = named
    try:
        yield
    finally:
        ConfigurableTask.download = download
