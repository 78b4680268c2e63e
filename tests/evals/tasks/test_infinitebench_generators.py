"""InfiniteBench's generators have the ranges, forms and questions of the official script."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.tasks.common import official_prompts
from evals.tasks.infinitebench.computed import HEADER, TARGETS
from evals.tasks.infinitebench.generated_row import GeneratedRow
from evals.tasks.infinitebench.generators import GENERATORS
from evals.tasks.infinitebench.needles import number_string_key


@settings(max_examples=50, deadline=None)
@given(st.integers())
def test_number_strings_repeat_digits_in_place(seed: int) -> None:
    """Ten digits whose runs come from at most five draws."""
    key = number_string_key(random.Random(seed))
    assert re.fullmatch("[0-9]{10}", key)
    assert len(re.findall(r"(.)\1*", key)) <= 5


def made(name: str, index: int, size: int = 400) -> GeneratedRow:
    return GENERATORS[name].row(name, 0, index, size, 131072)


@pytest.mark.parametrize("target", TARGETS)
def test_questions_of_math_find_are_the_official_ones(target: str) -> None:
    row = made("math_find", 50 * TARGETS.index(target))
    official = official_prompts.hashes()["infinitebench_questions"][f"math_find {target}"]
    assert official_prompts.sha256(row.input) == official


def test_questions_of_math_calc_and_code_run_are_the_official_ones() -> None:
    official = official_prompts.hashes()["infinitebench_questions"]
    assert official_prompts.sha256(made("math_calc", 0).input) == official["math_calc"]
    asked = re.sub(r"func_\d+\(-?\d+\)", "func_{j}({x})", made("code_run", 0).input)
    assert official_prompts.sha256(asked) == official["code_run"]
    header = HEADER.replace("functions_module.py", "{functions_file}")
    assert official_prompts.sha256(header) == official["code_run header"]


def test_numbers_of_math_find_have_the_official_ranges() -> None:
    """The end of the range that is asked for is drawn from 79 to 99, or from 0 to 19; the other end stays."""
    ends: dict[str, set[tuple[int, int]]] = {target: set() for target in TARGETS}
    for index in range(0, 350, 3):
        numbers = json.loads(made("math_find", index, 3000).context)
        ends[TARGETS[index // 50]].add((min(numbers), max(numbers)))
    for target, found in ends.items():
        lows, highs = {low for low, _ in found}, {high for _, high in found}
        assert max(lows) <= (0 if "largest" in target else 19)
        assert min(highs) >= (99 if "smallest" in target else 79)
        assert len(found) > 5
    assert any(low > 0 for low, _ in ends["median"])
    assert any(high < 99 for _, high in ends["median"])


def test_functions_of_code_run_have_the_official_form() -> None:
    constants, layers = set(), set()
    for index in range(0, 400, 20):
        row = made("code_run", index, 550)
        functions = re.findall(r"def func_(\d+)\(x\):\n    return (func_\d+\(x\)|x)( [+-] \d+)?\n\n", row.context)
        assert len(functions) == 550 // int(row.meta["layers"]) * int(row.meta["layers"])
        numbers = [int(number) for number, _, _ in functions]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] <= 1100
        constants |= {int(addition.replace(" ", "") or 0) for _, _, addition in functions}
        layers.add(row.meta["layers"])
    assert constants == set(range(-12, 18))
    assert layers == {2, 4, 6, 8, 10}


def test_the_median_of_an_even_list_is_a_float_as_in_the_official_files() -> None:
    assert isinstance(made("math_find", 300, 400).answer, float)
    assert isinstance(made("math_find", 300, 401).answer, int)
