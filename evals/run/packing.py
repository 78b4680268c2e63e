"""Jobs onto machines: the longest first, each where it ends soonest (Graham 1969, LPT).

A job that needs several machines at once (a model over several GPUs) comes before those that need fewer, as on a
cluster, and waits for all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """seconds: of the job itself. setup_s: once on every machine that gets jobs of its group (a model is loaded).

    width: machines that it takes at once.
    """

    seconds: float
    group: Hashable = None
    setup_s: float = 0.0
    width: int = 1


@dataclass
class Machine:
    """jobs: positions of its jobs, the longest first. seconds: when it is done with them."""

    jobs: list[int] = field(default_factory=list)
    seconds: float = 0.0


def longest_first(jobs: Sequence[Job]) -> list[int]:
    """Positions of the jobs, the widest first, then the longest; of equals the earlier one."""
    return sorted(range(len(jobs)), key=lambda at: (-jobs[at].width, -jobs[at].seconds))


def pack(jobs: Sequence[Job], machines: int) -> list[Machine]:
    """The jobs of each of `machines` machines, of which there are enough for the widest job.

    The same arguments give the same result everywhere.
    """
    packed = [Machine() for _ in range(machines)]
    groups: list[set[Hashable]] = [set() for _ in range(machines)]
    for at in longest_first(jobs):
        job = jobs[at]
        ends = [
            machine.seconds + job.seconds + (0.0 if job.group in known else job.setup_s)
            for machine, known in zip(packed, groups, strict=True)
        ]
        best = sorted(range(machines), key=ends.__getitem__)[: job.width]
        for place in best:
            packed[place].jobs.append(at)
            packed[place].seconds = ends[best[-1]]
            groups[place].add(job.group)
    return packed


def wall_seconds(jobs: Sequence[Job], machines: int) -> float:
    """When the last of the machines is done."""
    return max(machine.seconds for machine in pack(jobs, machines))
