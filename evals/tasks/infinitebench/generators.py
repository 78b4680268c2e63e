"""InfiniteBench's six synthetic tasks at any length, from a seed.

A row's `size` is its number of units (noise lines, pairs, numbers, terms, functions); `official_size` scales the
official one with the length. Every row has a random generator of its own, so row i is the same whichever rows
are made.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from evals.tasks.infinitebench import computed, needles
from evals.tasks.infinitebench.generated_row import OFFICIAL_LENGTH, GeneratedRow


@dataclass(frozen=True)
class Generator:
    """make(rng, row number, size, length) -> row. size: official units at 128K (None: as many as fit)."""

    make: Callable[[random.Random, int, int, int], GeneratedRow]
    size: int | None
    rows: int | None = None

    def official_size(self, length: int) -> int | None:
        """Units at a length: the official number, scaled."""
        return None if self.size is None else max(2, self.size * length // OFFICIAL_LENGTH)

    def count(self, length: int) -> int:
        """Official number of rows."""
        return self.rows or needles.sweep(length).rows

    def row(self, task: str, seed: int, index: int, size: int, length: int) -> GeneratedRow:
        """Row number `index`."""
        return self.make(random.Random(f"{task} {seed} {index}"), index, size, length)


GENERATORS = {
    "passkey": Generator(needles.needle("passkey"), 5220),
    "number_string": Generator(needles.needle("number_string"), 5220),
    "kv_retrieval": Generator(needles.kv_retrieval, 2500, needles.KV_ROWS),
    "math_find": Generator(computed.math_find, 60000, computed.MATH_FIND_ROWS),
    "math_calc": Generator(computed.math_calc, 30000, computed.MATH_CALC_ROWS),
    "code_run": Generator(computed.code_run, None, computed.CODE_RUN_ROWS),
}
