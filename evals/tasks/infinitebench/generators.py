"""InfiniteBench's synthetic tasks by the official formulas, at any length, from a seed.

passkey, number_string and kv_retrieval follow data/construct_synthetic_dataset.py (github OpenBMB/InfiniteBench,
MIT): noise line, needle sentences and questions are the official ones, since they are the task. For math_find,
math_calc and code_run the repository has no generator; these follow the description of the data (Zhang et al.,
section 3 and appendix): same kind of context, answers and numbers of rows, wording ours.

A row's `size` is its number of units (noise lines, pairs, numbers, terms, functions); `official_size` scales the
official one with the length. Every row has a random generator of its own, so row i is the same whichever rows
are made.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

OFFICIAL_LENGTH = 131072
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
PASSKEY = "The pass key is {key}. Remember it. {key} is the pass key.\n", "What is the pass key?"
DIGITS = (
    "The sequence of digits is {key}. Remember it. {key} is the sequence of digits.\n",
    "What is the sequence of digits?",
)
TARGETS = (
    "largest", "second largest", "third largest", "smallest", "second smallest", "third smallest", "median"
)  # fmt: skip
LAYERS = (2, 4, 6, 8, 10)


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
    return "".join(str(rng.randint(0, 9)) for _ in range(5))


def number_string_key(rng: random.Random) -> str:
    """Five random digits; five times, the digit at a random position is doubled in place."""
    digits = [str(rng.randint(0, 9)) for _ in range(5)]
    for k in range(5):
        at = rng.randint(0, 5 + k - 1)
        digits.insert(at, digits[at])
    return "".join(digits)


def _needle(task: str) -> Callable[[random.Random, int, int, int], dict[str, Any]]:
    def make(rng: random.Random, index: int, size: int, length: int) -> dict[str, Any]:
        """size below the official number of lines keeps the relative depth."""
        plan = sweep(length)
        depth = index // plan.repeat * plan.step
        if size != plan.lines:
            depth = round(depth * size / plan.lines)
        key = passkey_key(rng) if task == "passkey" else number_string_key(rng)
        return {
            "context": needle_context(task, key, depth, size),
            "input": (PASSKEY if task == "passkey" else DIGITS)[1],
            "answer": key,
            "depth": 100 * depth / size,
            "evidence": key,
        }

    return make


def _kv_retrieval(rng: random.Random, index: int, size: int, length: int) -> dict[str, Any]:
    """A JSON object of random UUIDs; the wanted pair moves from the first to the last with the row number."""
    pairs = [(_uuid(rng), _uuid(rng)) for _ in range(size)]
    wanted = index * size // KV_ROWS
    body = ", ".join(f'"{key}": "{value}"' for key, value in pairs)
    return {
        "context": f"JSON data:\n{{{body}}}",
        "input": f'\nKey: "{pairs[wanted][0]}"\nThe value associated with the specified key is: ',
        "answer": pairs[wanted][1],
        "depth": 100 * wanted / size,
        "evidence": pairs[wanted][1],
    }


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _math_find(rng: random.Random, index: int, size: int, length: int) -> dict[str, Any]:
    """Integers from 0..99, the range narrowed at one end so that the answer varies from row to row.

    "second" and "third" count different values: the list holds every value many times.
    """
    target = TARGETS[index // (MATH_FIND_ROWS // len(TARGETS)) % len(TARGETS)]
    low, high = rng.choice([(rng.randint(0, 50), 99), (0, rng.randint(49, 99))])
    numbers = [rng.randint(low, high) for _ in range(size)]
    return {
        "context": str(numbers),
        "input": f"Answer with one number and no other words. The {target} number of the list is: ",
        "answer": _pick(numbers, target),
    }


def _pick(numbers: list[int], target: str) -> int | float:
    if target == "median":
        ordered = sorted(numbers)
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        return int(middle) if middle.is_integer() else middle
    values = sorted(set(numbers), reverse=target.endswith("largest"))
    place = {"second": 1, "third": 2}.get(target.split()[0], 0)
    return values[min(place, len(values) - 1)]


def _math_calc(rng: random.Random, index: int, size: int, length: int) -> dict[str, Any]:
    """A sum of `size` terms whose running value stays in 0..99; the answer is every value from the second on."""
    value = rng.randint(0, 99)
    terms, values = [str(value)], []
    for _ in range(size - 1):
        plus = rng.random() < 0.5
        operand = rng.randint(0, 99 - value if plus else value)
        value += operand if plus else -operand
        terms.append(f"{'+' if plus else '-'} {operand}")
        values.append(value)
    return {"context": " ".join(terms), "input": "", "answer": values}


def _code_run(rng: random.Random, index: int, size: int, length: int) -> dict[str, Any]:
    """Functions in layers: each calls one of the next layer and adds a constant; the last layer calls none."""
    depth = LAYERS[index // (CODE_RUN_ROWS // len(LAYERS)) % len(LAYERS)]
    size = max(size, depth)
    names = [f"func_{i}" for i in range(size)]
    rng.shuffle(names)
    layers = [names[i::depth] for i in range(depth)]
    calls: dict[str, tuple[str, int]] = {}
    for level, layer in enumerate(layers):
        for name in layer:
            callee = rng.choice(layers[level + 1]) if level + 1 < depth else ""
            calls[name] = (callee, rng.choice([c for c in range(-12, 18) if c]))
    start, argument = rng.choice(layers[0]), rng.randint(-10, 10)
    value, callee = argument, start
    for _ in layers:
        callee, constant = calls[callee]
        value += constant
    return {
        "context": "\n\n".join(_function(name, *calls[name]) for name in sorted(names, key=_number)),
        "input": f"What does {start}({argument}) return?",
        "answer": value,
        "layers": depth,
    }


def _number(name: str) -> int:
    return int(name.removeprefix("func_"))


def _function(name: str, callee: str, constant: int) -> str:
    inner = f"{callee}(x)" if callee else "x"
    return f"def {name}(x):\n    return {inner} {'+' if constant > 0 else '-'} {abs(constant)}"


KV_ROWS, MATH_FIND_ROWS, MATH_CALC_ROWS, CODE_RUN_ROWS = 500, 350, 50, 400


@dataclass(frozen=True)
class Generator:
    """make(rng, row number, size, length) -> row. size: official units at 128K (None: as many as fit)."""

    make: Callable[[random.Random, int, int, int], dict[str, Any]]
    size: int | None
    rows: int | None = None

    def official_size(self, length: int) -> int | None:
        """Units at a length: the official number, scaled."""
        return None if self.size is None else max(2, self.size * length // OFFICIAL_LENGTH)

    def count(self, length: int) -> int:
        return self.rows or sweep(length).rows

    def row(self, task: str, seed: int, index: int, size: int, length: int) -> dict[str, Any]:
        return self.make(random.Random(f"{task} {seed} {index}"), index, size, length)


GENERATORS = {
    "passkey": Generator(_needle("passkey"), 5220),
    "number_string": Generator(_needle("number_string"), 5220),
    "kv_retrieval": Generator(_kv_retrieval, 2500, KV_ROWS),
    "math_find": Generator(_math_find, 60000, MATH_FIND_ROWS),
    "math_calc": Generator(_math_calc, 30000, MATH_CALC_ROWS),
    "code_run": Generator(_code_run, None, CODE_RUN_ROWS),
}
