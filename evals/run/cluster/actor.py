"""The process of a worker. It imports what work needs, and opens its GPUs, as soon as it starts, while the driver still
imports and plans.

Only light imports here: the driver starts these processes first of all.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.run.cluster.messages import Message
    from evals.run.cluster.schedule import Job
    from evals.run.cluster.worker import Place, Worker

WORK = "evals.run.cluster.worker"


class Actor:
    """A worker, once `serve` has made it."""

    def __init__(self) -> None:
        import_module(WORK).open_gpus()  # takes seconds
        self._worker: Worker

    def serve(self, make: Callable[[], Worker]) -> Place:
        """Become a worker. Where it is tells the driver that it is there."""
        self._worker = make()
        return self._worker.place()

    def start(self, job: Job) -> None:
        """See `Worker.start`."""
        self._worker.start(job)

    def messages(self, wait_s: float) -> list[Message]:
        """See `Worker.messages`."""
        return self._worker.messages(wait_s)


def hire(gpus: int) -> Any:
    """Start a process with that many GPUs of one node; 0: with a processor."""
    import ray

    own = {"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_gpus": 0, "num_cpus": 1}
    actor: Any = ray.remote(Actor)  # its methods have `.remote`, which the type of the class does not know
    return actor.options(**own, max_restarts=0, max_task_retries=0).remote()
