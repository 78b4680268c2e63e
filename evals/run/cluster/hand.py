"""A worker as the driver sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.run.cluster.messages import Message
from evals.run.cluster.schedule import Job
from evals.run.cluster.worker import Place


@dataclass
class Hand:
    """A worker as the driver sees it. place is None until it has answered; job is None while it is idle.

    gpus: that it has, 1 on a CPU too.
    """

    actor: Any
    gpus: int = 1
    place: Place | None = None
    job: Job | None = None
    held: str | None = None
    settled: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The worker in sentences for people."""
        return f"{self.place.host}:{self.place.pid}" if self.place else "a worker that had not started"


Told = tuple[Hand, Sequence[Message]]
"""A worker, and what it had to tell."""
