"""How a grid is run: where its folder is, what is said meanwhile, and what shares the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.cli.log import Talk
from evals.run.cluster.connect import Cluster
from evals.run.shards import Shard
from evals.run.spec import Logger


@dataclass(frozen=True)
class Way:
    """How a grid is run, which changes no result. output: the run folder; None: below `runs`.

    shard: the part of the grid to run; None: all of it. earlier: a run whose measured times correct the plan.
    talk: how much is said meanwhile. logger: takes the cells as they finish.
    cluster: whose workers run the cells; None: this process does.
    """

    output: Path | None
    command: Sequence[str]
    shard: Shard | None = None
    earlier: Path | None = None
    talk: Talk = field(default_factory=Talk)
    logger: Logger | None = None
    cluster: Cluster | None = None
