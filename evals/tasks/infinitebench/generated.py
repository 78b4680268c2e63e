"""InfiniteBench, generated: rows of the official size, or of the largest that fits; never cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from evals.errors import UserError
from evals.tasks.common.fitting import fitting_size
from evals.tasks.common.spread import order, spread
from evals.tasks.infinitebench.generators import GENERATORS, Generator
from evals.tasks.infinitebench.prompts import Maker, Request, Text

SMALLEST = 2
"""Units (noise lines, pairs, ...) of the shortest row."""


def requests(maker: Maker, length: int, limit: int | None, seed: int) -> Iterator[tuple[int, Request]]:
    """Row numbers and requests. Raises UserError where the length cannot hold the shortest row."""
    generator = GENERATORS[maker.task]
    count = generator.count(length)
    chosen = sorted(spread(list(range(count)), limit)) if limit is not None else range(count)

    def make(index: int, size: int) -> Request:
        row = generator.row(maker.task, seed, index, size, length)
        meta: dict[str, str | float] = {"source": "generated", "size": size, **row.meta}
        return maker.request(Text(row.context, row.input, row.answer, [], row.evidence, meta, order(index)))

    size = _size(maker.task, generator, length, lambda size: make(0, size).tokens)
    for index in chosen:
        request = make(index, size)
        for smaller in range(size - 1, SMALLEST - 1, -max(1, size // 100)):
            if request.tokens <= length:
                break
            request = make(index, smaller)
        yield index, request


def _size(task: str, generator: Generator, length: int, tokens: Callable[[int], int]) -> int:
    """Units of row 0."""
    official = generator.official_size(length)
    if official is not None and tokens(official) <= length:
        return official
    if tokens(SMALLEST) > length:
        raise UserError(f"InfiniteBench {task} needs a longer --length than {length}.")
    return fitting_size(tokens, length, SMALLEST, official)
