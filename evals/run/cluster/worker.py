"""A worker process of the cluster: one GPU, one job at a time, the model kept from job to job."""

from __future__ import annotations

import os
import platform
import queue
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from evals.errors import UserError
from evals.measure.hardware import devices_name
from evals.run.answering import Spent
from evals.run.cluster import processors
from evals.run.cluster.messages import Ended, Message
from evals.run.cluster.relay import Relay
from evals.run.cluster.schedule import Job
from evals.run.cluster.staging import Parcel, missing, reading
from evals.run.engine import Engine
from evals.run.grid import Cell
from evals.run.identity import TaskChoice
from evals.run.samples import AuditError
from evals.run.spec import RunSpec

MOST_MESSAGES = 1000
"""Messages that wait for the driver before the work waits too."""


@dataclass(frozen=True)
class Place:
    """Where a worker is."""

    host: str
    device: str
    pid: int


def open_gpus() -> None:
    """Have CUDA open the GPUs that Ray gave this process, before anything is asked of them."""
    for index in range(torch.cuda.device_count()) if processors.gpus() else ():
        torch.cuda.synchronize(index)


class Worker:
    """The work of an actor. `start` gives it a job; `messages` has what it has to tell, the last of them `Ended`.

    The work is done by a thread, so that every record leaves the process as soon as it is made. It is one thread for
    all jobs: cuDNN's plans and other things that libraries make for each shape belong to the thread that made them.
    """

    def __init__(self, spec: RunSpec, folder: str, threads: int | None, parcel: Sequence[Any] = ()) -> None:
        """folder: that relative paths start from, as for the driver. threads: of torch, here and in the processes
        that this one starts; None: this worker's share of the machine. parcel: reference to a `Parcel` with the data,
        which stays where it is as long as nobody needs it; empty where there is none.
        """
        if os.path.isdir(folder):
            os.chdir(folder)
        threads = threads or processors.share()
        processors.settle()
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        self._spec, self._parcel = spec, parcel
        self._tasks: dict[str, TaskChoice] = {}
        self._outbox: queue.Queue[Message] = queue.Queue(MOST_MESSAGES)
        self._relay = Relay(self._outbox.put)
        self._spent = Spent()
        self._engine = Engine(self._relay, spec, self._relay, self._spent)
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threading.Thread(target=self._work_on, name="jobs", daemon=True).start()

    def place(self) -> Place:
        """Where this is; the first answer tells the driver that the worker is there."""
        kind, count = torch.device(self._spec.device).type, max(torch.cuda.device_count(), 1)
        return Place(platform.node(), devices_name([torch.device(kind, i) for i in range(count)]), os.getpid())

    def start(self, job: Job) -> None:
        """Begin a job; the one before must have ended."""
        self._jobs.put(job)

    def messages(self, wait_s: float) -> list[Message]:
        """All messages since the last call. Waits that long for the first."""
        found: list[Message] = []
        with suppress(queue.Empty):
            found.append(self._outbox.get(timeout=wait_s) if wait_s else self._outbox.get_nowait())
            while len(found) < MOST_MESSAGES:
                found.append(self._outbox.get_nowait())
        return found

    def _fetch(self) -> Parcel | None:
        import ray

        found: list[Parcel] = ray.get(list(self._parcel))
        return found[0] if found else None

    def _known(self, task: TaskChoice) -> TaskChoice:
        """The task as an earlier job brought it, with what was read and tokenised for that."""
        return self._tasks.setdefault(task.name, task)

    def _work_on(self) -> None:
        while True:
            self._work(self._jobs.get())

    def _work(self, job: Job) -> None:
        before = Spent(self._spent.load_s, self._spent.model_s)
        error: BaseException | None = None
        try:
            self._relay.take(job)
            cells: Sequence[Cell] = job.cells
            if home := missing(self._spec.data_dir, self._fetch):
                self._relay.log(f"{platform.node()} has no {self._spec.data_dir}: it was sent to {home}.")
                cells = [reading(cell, home) for cell in cells]
            self._engine.run_model([cell.with_task(self._known(cell.task)) for cell in cells])
        except (AuditError, UserError) as raised:
            error = raised
        except BaseException:  # a bug of ours ends the run; whatever it is, it can be told
            error = RuntimeError(traceback.format_exc())
        self._outbox.put(Ended(self._spent.load_s - before.load_s, self._spent.model_s - before.model_s, error))
