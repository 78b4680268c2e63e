"""The driver: hires workers, hands out jobs, listens to what comes back, and does without what is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from evals.errors import UserError
from evals.records.store import RunStore
from evals.run.answering import Spent
from evals.run.begun import Begun
from evals.run.cluster.actor import hire
from evals.run.cluster.connect import Cluster
from evals.run.cluster.hand import Hand, Told
from evals.run.cluster.hearing import Hearing
from evals.run.cluster.messages import Ended, Message
from evals.run.cluster.schedule import Job, Schedule, jobs
from evals.run.cluster.staging import pack
from evals.run.cluster.worker import Place, Worker
from evals.run.grid import Cell
from evals.run.left import left_to_do
from evals.run.progress import Progress, cell_name
from evals.run.spec import RunSpec

MOST_DEATHS = 3
"""Of workers on one cell, without a record in between, before it counts as failed: a node can be lost by chance."""
MOST_LOST_STARTS = 10
"""Of workers in a row that did not come to answer; nodes that are lost meanwhile are among the reasons."""
WAIT_S = 1.0
PATIENCE_S = 30.0
"""Without any worker, after which people are told what the run waits for."""
GONE = (RayError, ConnectionError)
"""What Ray raises where there is no cluster any more; the second through its client."""
DRAIN_S = 5.0
"""How long a stopped run waits for what its workers have to tell."""


class Driver:
    """Executes the cells of one run on a cluster."""

    def __init__(self, store: RunStore, spec: RunSpec, progress: Progress, spent: Spent, cluster: Cluster) -> None:
        self.store = store
        self.spec = spec
        self.progress = progress
        self.cluster = cluster
        self.begun = Begun(store, MOST_DEATHS)
        self.hearing = Hearing(store, progress, spent, self.begun, cluster)
        self.schedule = Schedule([])
        self.hands: list[Hand] = []
        self.most_workers = 0
        self._polls: dict[Any, Hand] = {}
        self._parcel: list[Any] = []
        self._lost_starts = 0
        self._manned_at = time.monotonic()
        self._on_gpus = spec.device != "cpu"

    def execute(self, cells: Sequence[Cell]) -> None:
        """Run what is not done yet. The results are in the run folder, as after `Engine.execute`.

        Raises StoreError where the disk fails, AuditError where a prompt breaks a rule, UserError where the cluster
        has no place for a worker; a lost worker costs only the requests that were at work.
        """
        todo = left_to_do(cells, self.store, self.spec, self.progress)
        self.hearing.cells = {cell.id: cell for cell in todo}
        self.schedule = Schedule(jobs(todo, self.store.meta.cells))
        try:
            if todo:
                self._prepare(todo)
            while len(self.schedule) or any(hand.job for hand in self.hands):
                self._hire()
                self._employ()
                self._listen()
                self._explain_waiting()
        except GONE as error:
            raise UserError(
                f"The Ray cluster {self.cluster.address} is gone ({_last_line(error)}): everything measured so far is "
                "kept, and the same command goes on from there."
            ) from error
        except BaseException:
            self._drain()
            raise
        finally:
            self._dismiss()
            self.store.save()

    def _prepare(self, todo: Sequence[Cell]) -> None:
        """Send the data along, and see that there is a place for a worker."""
        if self.spec.data_dir is not None and self.cluster.hosts() > 1:
            parcel = pack(todo, self.spec.data_dir)
            self._parcel = [] if parcel is None else [ray.put(parcel)]
        if not self.cluster.slots(int(self._on_gpus)):
            wanted = "GPU" if self._on_gpus else "processor"
            raise UserError(f"The Ray cluster {self.cluster.address} has no {wanted}: add a node that has one.")
        self._take_recruits()

    def _take_recruits(self) -> None:
        """Give work to the processes that started while this run was planned, as far as it has any for them."""
        narrow = set(self.schedule.sizes()) == {1}
        for actor, gpus in self.cluster.recruits:
            if narrow and gpus == self._on_gpus and len(self.hands) < len(self.schedule):
                self._take_on(Hand(actor))
            else:
                self._kill(Hand(actor))

    def _hire(self) -> None:
        """A worker for each slot of the cluster, as long as there are jobs for it.

        The models that need most GPUs come first; the others take what is left of the GPUs, and get the rest as soon as
        a worker has no job of its size any more.
        """
        waiting = self.schedule.sizes()
        for gpus in sorted(waiting, reverse=True):
            mine = [hand for hand in self.hands if hand.gpus == gpus]
            if waiting[gpus] <= sum(hand.job is None for hand in mine):
                continue
            others = [hand for hand in self.hands if hand.gpus != gpus]
            for hand in others:
                if hand.place and hand.job is None and not waiting[hand.gpus]:
                    self.hands.remove(hand)
                    self._kill(hand)
            taken = sum(hand.gpus for hand in self.hands if hand.gpus != gpus)
            slots = self.cluster.slots(gpus * self._on_gpus) - -(-taken // gpus)
            wanted = min(slots, waiting[gpus] + sum(hand.job is not None for hand in mine))
            for _ in range(wanted - len(mine)):
                self._engage(gpus)
        self.most_workers = max(self.most_workers, len(self.hands))

    def _engage(self, gpus: int) -> None:
        """Start a worker."""
        self._take_on(Hand(hire(gpus * self._on_gpus), gpus))

    def _take_on(self, hand: Hand) -> None:
        """Make a process a worker of this run."""
        threads = os.environ.get("OMP_NUM_THREADS", "")
        most = int(threads) if threads.isdecimal() else None
        self.hands.append(hand)
        self._polls[hand.actor.serve.remote(partial(Worker, self.spec, str(Path.cwd()), most, self._parcel))] = hand

    def _employ(self) -> None:
        """A job for every worker that is there and has none."""
        idle = [hand for hand in self.hands if hand.place and hand.job is None]
        begun = [(hand, job) for hand in idle if (job := self._assign(hand))]
        if begun:
            self.store.save_cells(*(cell.id for _, job in begun for cell in job.cells))
        for hand, job in begun:
            taken = hand.actor.start.remote(job.as_recorded(self.store))
            self._polls[taken] = hand  # its node may lack what the job needs
            self._poll(hand)

    def _assign(self, hand: Hand) -> Job | None:
        """Choose a job for an idle worker and note that its cells are begun; None where there is none for it."""
        while job := self.schedule.take(hand.held, [h.job.model for h in self.hands if h.job], hand.gpus):
            if deadly := self.begun.deadly(job.cells):
                self.hearing.fail(deadly, self.begun.reason)
            if left := job.without({cell.id for cell in deadly}):
                self.begun.start(left.cells)
                hand.job, hand.held, hand.settled = left, left.model, set()
                return left
        return None

    def _dismiss(self) -> None:
        """End all workers."""
        for hand in self.hands:
            self._kill(hand)

    @staticmethod
    def _kill(hand: Hand) -> None:
        with suppress(*GONE):
            ray.kill(hand.actor)

    def _poll(self, hand: Hand) -> None:
        self._polls[hand.actor.messages.remote(WAIT_S)] = hand

    def _listen(self) -> None:
        """Take what workers have to tell, as soon as one of them has."""
        if not self._polls:
            time.sleep(WAIT_S)  # all workers are lost, and no new one has a place yet
            return
        told: list[Told] = []
        lost: list[tuple[Hand, RayError]] = []
        for poll in self._answered():
            hand = self._polls.pop(poll)
            try:
                found = ray.get(poll)
            except RayError as error:
                lost.append((hand, error))
                continue
            if found is None:
                continue  # it has its job
            if isinstance(found, Place):
                hand.place, self._lost_starts = found, 0
                self.progress.log(f"Worker {hand.name} on {found.device}")
                continue
            told.append((hand, found))
            if not (found and isinstance(found[-1], Ended)):
                self._poll(hand)  # what comes next is on its way while this is written
        self.hearing.write_down(told)
        for hand, messages in told:
            self.hearing.report(hand, messages)
        for hand, reason in lost:
            self._lose(hand, reason)

    def _explain_waiting(self) -> None:
        """Ray waits without a word for a place that others have, or for a node that is gone."""
        now = time.monotonic()
        if any(hand.place for hand in self.hands):
            self._manned_at = now
        elif now - self._manned_at >= PATIENCE_S:
            self._manned_at = float("inf")  # once is enough
            places = "GPUs" if self._on_gpus else "processors"
            self.progress.log(
                f"No worker has come yet: the {places} of the Ray cluster {self.cluster.address} are in use, or their "
                "nodes are not there. The run goes on as soon as there are some; `ray status` shows them."
            )

    def _answered(self) -> list[Any]:
        """The polls that have an answer, all of those that there are when the first has one."""
        ready, _ = ray.wait(list(self._polls), num_returns=1, timeout=WAIT_S)
        if ready:
            ready, _ = ray.wait(list(self._polls), num_returns=len(self._polls), timeout=0)
        return list(ready)

    def _lose(self, hand: Hand, error: RayError) -> None:
        """A worker is gone: what it had not told is done again by another.

        Raises UserError where no other would do better.
        """
        if hand not in self.hands:
            return  # two answers were open
        self.hands.remove(hand)
        self._kill(hand)  # a worker that only cannot be reached must not go on
        job = hand.job and hand.job.without(hand.settled)
        broken = isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)
        if job is None:
            self._lost_starts += hand.place is None
            if broken or self._lost_starts >= MOST_LOST_STARTS:
                raise UserError(f"No worker of the Ray cluster starts: {_last_line(error)}") from error
            return
        names = ", ".join(map(cell_name, job.cells))
        if broken:
            self.begun.survived(job.cells)
            raise UserError(
                f"Worker {hand.name} cannot work on {names} ({_last_line(error).rstrip('.')}): install on every node "
                "of the Ray cluster what this machine has."
            ) from error
        for cell in job.cells:
            self.progress.drop(cell)
        self.progress.log(f"Lost worker {hand.name} at {names} ({_reason(error)}): another goes on with it.")
        self.schedule.add(job)

    def _drain(self) -> None:
        """The run stops: write down what the workers have to tell, and count no death."""
        running = [hand for hand in self.hands if hand.job]
        for hand in running:
            assert hand.job is not None
            self.begun.survived(hand.job.cells)
        try:
            polls = {**self._polls, **{hand.actor.messages.remote(0): hand for hand in running}}
            if not polls:
                return
            ready, _ = ray.wait(list(polls), num_returns=len(polls), timeout=DRAIN_S)
            told = [(hand, _told(poll)) for poll, hand in polls.items() if poll in ready]
        except GONE:
            return
        self.hearing.write_down(told)


def _told(poll: Any) -> list[Message]:
    """The messages of a worker; none where it is gone, or has only said where it is or that it has its job."""
    try:
        found = ray.get(poll)
    except GONE:
        return []
    return [] if found is None or isinstance(found, Place) else list(found)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _reason(error: RayError) -> str:
    """The first sentence of what Ray says about a lost worker."""
    return _last_line(error).partition(". ")[0].partition(" Worker exit type")[0].rstrip(".")
