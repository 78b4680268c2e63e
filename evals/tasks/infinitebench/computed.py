"""math_find, math_calc and code_run by the official rules (data/construct_synthetic_dataset.py at 26fa34b, MIT).

Ranges, targets and questions are the official ones. Not the random stream: the script is not seeded, so its rows
cannot be made again.
"""

from __future__ import annotations

import random

from evals.tasks.infinitebench.generated_row import GeneratedRow
from evals.tasks.infinitebench.labels import Number

TARGETS = (
    "largest", "second largest", "third largest", "smallest", "second smallest", "third smallest", "median"
)  # fmt: skip
LAYERS = (2, 4, 6, 8, 10)
LOW, HIGH = 0, 99
"""Range of math_find's and math_calc's numbers. math_find draws one end of its range anew in every row:"""
NARROWED_HIGH = (79, 99)
NARROWED_LOW = (0, 19)
ADDITION = (-12, 17)
ARGUMENT = (-10, 10)
MATH_FIND_ROWS, MATH_CALC_ROWS, CODE_RUN_ROWS = 350, 50, 400
HEADER = "\nHere is the content of functions_module.py:\n\n"


def math_find(rng: random.Random, index: int, size: int, length: int) -> GeneratedRow:
    """A list of whole numbers. Its range is narrowed at the end that is asked for, so that the answer varies.

    "second" and "third" count different values: the list holds every value many times.
    """
    target = TARGETS[index // (MATH_FIND_ROWS // len(TARGETS)) % len(TARGETS)]
    narrow_low = "smallest" in target or (target == "median" and rng.random() > 0.5)
    low = rng.randint(*NARROWED_LOW) if narrow_low else LOW
    high = HIGH if narrow_low else rng.randint(*NARROWED_HIGH)
    numbers = [rng.randint(low, high) for _ in range(size)]
    question = f"You should answer with only one number, no other words. The {target} number of the list is: "
    return GeneratedRow(str(numbers), question, _pick(numbers, target))


def _pick(numbers: list[int], target: str) -> Number:
    """The answer; the median of an even number of values is a float, as in the official files."""
    if target == "median":
        ordered, middle = sorted(numbers), len(numbers) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    values = sorted(set(numbers), reverse=target.endswith("largest"))
    place = {"second": 1, "third": 2}.get(target.split()[0], 0)
    return values[min(place, len(values) - 1)]


def math_calc(rng: random.Random, index: int, size: int, length: int) -> GeneratedRow:
    """A sum of `size` terms whose running value stays in 0..99; the answer is every value from the second on.

    An operand that would leave the range is drawn again from what fits.
    """
    value = rng.randint(LOW, HIGH)
    terms, values = [str(value)], []
    for _ in range(size - 1):
        operand = rng.randint(LOW, HIGH)
        plus = rng.random() > 0.5
        room = HIGH - value if plus else value
        if operand > room:
            operand = rng.randint(LOW, room)
        value += operand if plus else -operand
        terms.append(f"{'+' if plus else '-'} {operand}")
        values.append(value)
    return GeneratedRow(" ".join(terms), "The value of the numerical expression is: ", list[Number](values))


def code_run(rng: random.Random, index: int, size: int, length: int) -> GeneratedRow:
    """Functions in layers: each calls one of the next layer and adds a constant; the last layer calls none.

    The script has 550 functions, some 12K tokens, while the published rows have 75K on average: here their number
    follows the length.
    """
    depth = LAYERS[index // (CODE_RUN_ROWS // len(LAYERS)) % len(LAYERS)]
    width = max(size // depth, 1)
    names = rng.sample(range(1, 2 * max(size, depth) + 1), depth * width)
    layers = [names[i * width : (i + 1) * width] for i in range(depth)]
    calls: dict[int, tuple[int | None, int]] = {}
    for level, layer in enumerate(layers):
        for name in layer:
            callee = rng.choice(layers[level + 1]) if level + 1 < depth else None
            calls[name] = callee, rng.randint(*ADDITION)
    start, argument = rng.choice(layers[0]), rng.randint(*ARGUMENT)
    value, name = argument, start
    for _ in layers:
        callee, addition = calls[name]
        value += addition
        name = callee if callee is not None else name
    question = (
        f"Please give me the exact number of the return value of func_{start}({argument}). "
        "Your response should end with the sentence 'The return value is:'."
    )
    context = HEADER + "".join(_function(name, *calls[name]) for name in sorted(calls))
    return GeneratedRow(context, question, value, meta={"layers": depth})


def _function(name: int, callee: int | None, addition: int) -> str:
    inner = "x" if callee is None else f"func_{callee}(x)"
    constant = f" {'+' if addition > 0 else '-'} {abs(addition)}" if addition else ""
    return f"def func_{name}(x):\n    return {inner}{constant}\n\n"
