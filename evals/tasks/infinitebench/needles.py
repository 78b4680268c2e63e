"""passkey, number_string and kv_retrieval by the official formulas (data/construct_synthetic_dataset.py, MIT).

Noise line, needle sentences and questions are the official ones, since they are the task.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import NamedTuple

from evals.tasks.infinitebench.generated_row import OFFICIAL_LENGTH, GeneratedRow

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
PASSKEY = "The pass key is {key}. Remember it. {key} is the pass key.\n", "What is the pass key?"
DIGITS = (
    "The sequence of digits is {key}. Remember it. {key} is the sequence of digits.\n",
    "What is the sequence of digits?",
)
KV_ROWS = 500


class Sweep(NamedTuple):
    """Noise lines of a context, lines between two depths, keys per depth."""

    lines: int
    step: int
    repeat: int

    @property
    def rows(self) -> int:
        return (self.lines // self.step + 1) * self.repeat


OFFICIAL_SWEEPS = {
    8192: Sweep(326, 6, 5),
    16384: Sweep(652, 12, 5),
    32768: Sweep(1305, 22, 5),
    65536: Sweep(2610, 45, 5),
    131072: Sweep(5220, 90, 10),
}


def sweep(length: int) -> Sweep:
    """The official sweep of a length in tokens, or one of the same form: 5220 lines at 128K, about 59 depths."""
    if length in OFFICIAL_SWEEPS:
        return OFFICIAL_SWEEPS[length]
    lines = max(1, length * 5220 // OFFICIAL_LENGTH)
    return Sweep(lines, max(1, round(lines / 58)), 5)


def needle_context(task: str, key: str, depth: int, lines: int) -> str:
    """Context of passkey or number_string: the needle after `depth` of `lines` noise lines."""
    needle = (PASSKEY if task == "passkey" else DIGITS)[0].format(key=key)
    return NOISE * depth + needle + NOISE * (lines - depth)


def passkey_key(rng: random.Random) -> str:
    """Five random digits."""
    return "".join(str(rng.randint(0, 9)) for _ in range(5))


def number_string_key(rng: random.Random) -> str:
    """Five random digits; five times, the digit at a random position is doubled in place."""
    digits = [str(rng.randint(0, 9)) for _ in range(5)]
    for k in range(5):
        at = rng.randint(0, 5 + k - 1)
        digits.insert(at, digits[at])
    return "".join(digits)


def needle(task: str) -> Callable[[random.Random, int, int, int], GeneratedRow]:
    """The generator of passkey or number_string."""

    def make(rng: random.Random, index: int, size: int, length: int) -> GeneratedRow:
        """size below the official number of lines keeps the relative depth."""
        plan = sweep(length)
        depth = index // plan.repeat * plan.step
        if size != plan.lines:
            depth = round(depth * size / plan.lines)
        key = passkey_key(rng) if task == "passkey" else number_string_key(rng)
        question = (PASSKEY if task == "passkey" else DIGITS)[1]
        return GeneratedRow(needle_context(task, key, depth, size), question, key, key, {"depth": 100 * depth / size})

    return make


def kv_retrieval(rng: random.Random, index: int, size: int, length: int) -> GeneratedRow:
    """A JSON object of random UUIDs; the wanted pair moves from the first to the last with the row number."""
    pairs = [(_uuid(rng), _uuid(rng)) for _ in range(size)]
    wanted = index * size // KV_ROWS
    key, value = pairs[wanted]
    body = ", ".join(f'"{key}": "{value}"' for key, value in pairs)
    question = f'\nKey: "{key}"\nThe value associated with the specified key is: '
    return GeneratedRow(f"JSON data:\n{{{body}}}", question, value, value, {"depth": 100 * wanted / size})


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
