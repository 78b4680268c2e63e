"""Samples of several seeds in one cell (`--set seeds=3`), for every task that draws its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.tasks.base import Instance, TaskSettings
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evals.tasks.base import Task


def seeds_of(settings: TaskSettings) -> int:
    """How many seeds the settings of a task ask for; 1 for a task without the setting."""
    return settings.seeds if isinstance(settings, ChatSettings) else 1


def check_seeds(task: Task, limit: int | None) -> None:
    """Raises UserError where several seeds are asked for, and the limit is below their number or nothing is drawn."""
    count = seeds_of(task.settings)
    if count == 1:
        return
    if limit is not None and limit < count:
        raise UserError(f"--limit {limit} leaves nothing for some of {count} seeds: raise it to {count} or more.")
    if not task.drawn:
        raise UserError(_not_drawn(task))


def _not_drawn(task: Task) -> str:
    return f"Nothing in {task.full_name} is drawn, so all seeds give the same samples: leave seeds out."


def seeded(
    task: Task, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
) -> list[Instance]:
    """The instances of a cell: those of `seed`, `seed` + 1, ... in turn, as many seeds as the settings ask for.

    limit: of all of them together. The instances of one seed are a cluster, so that what differs from seed to seed is
    part of every interval. Raises UserError for a limit below the number of seeds, and where nothing is drawn.
    """
    count = seeds_of(task.settings)
    if count == 1:
        return list(task.instances(tokenizer, length, limit, seed))
    check_seeds(task, limit)
    shares = [None if limit is None else -(-(limit - k) // count) for k in range(count)]
    drawn = [list(task.instances(tokenizer, length, share, seed + k)) for k, share in enumerate(shares)]
    if _same(drawn[0], drawn[1]):
        raise UserError(_not_drawn(task))
    turns = zip_longest(*(_marked(instances, seed, k, count) for k, instances in enumerate(drawn)))
    return [instance for instance in chain.from_iterable(turns) if instance is not None]


def _same(first: list[Instance], second: list[Instance]) -> bool:
    """Whether two seeds ask the same, of as many samples as both have."""
    pairs = list(zip(first, second, strict=False))
    return all(a.refused is None and a.prompt == b.prompt for a, b in pairs)


def _marked(instances: list[Instance], seed: int, number: int, count: int) -> Iterator[Instance]:
    """The instances of the `number`-th of `count` seeds from `seed` on, which a growing limit takes in turn.

    A group of one sample that has its name is not the same group in another seed.
    """
    ranked = sorted(range(len(instances)), key=lambda place: instances[place].order)
    ranks = {place: rank for rank, place in enumerate(ranked)}
    for place, instance in enumerate(instances):
        shared = instance.group if instance.group != instance.id else ""
        yield replace(
            instance,
            id=f"seed{seed + number}-{instance.id}",
            group=f"seed {seed + number}",
            meta={**instance.meta, "seed": seed + number},
            holds=instance.holds or frozenset([shared or instance.prompt.context_key]),
            order=ranks[place] * count + number,
        )
