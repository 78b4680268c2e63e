"""InfiniteBench's scores in both generations, with the odd rules of the official code."""

from __future__ import annotations

from typing import Any

import pytest

from evals.errors import UserError
from evals.tasks.infinitebench.labels import label
from evals.tasks.infinitebench.scorers import JUNE_SCORES, SCORES
from evals.tasks.infinitebench.subsets import MAX_NEW_TOKENS, views
from evals.tasks.infinitebench.task import score

BOTH: list[tuple[str, str, Any, float]] = [
    ("passkey", "The key is 01234, not 5", "01234", 1),
    ("passkey", "key 1234", ["01234"], 0),
    ("passkey", "", "01234", 0),
    ("number_string", "12 34", "34", 0),
    ("kv_retrieval", 'It is "ab-12".', "ab-12", 1),
    ("kv_retrieval", "ab-123", "ab-12", 0),
    ("code_run", "The value is: -4.", -4, 1),
    ("code_run", "4 is it", [4], 0),
    ("code_run", "  ", 4, 0),
    ("math_find", "It is 3.50", 3.5, 1),
    ("math_find", "007 is", [7], 1),
    ("math_find", "3.5", 3, 0),  # int("3.5") raises in the official code
    ("math_find", "none", 3, 0),
    ("math_calc", "[1, 2, 9, 4]", [1, 2, 3, 4], 0.5),
    ("math_calc", "1", [[1, 2]], 0.5),
    ("math_calc", "", [1, 2], 0),
    ("longbook_qa_eng", "the cat sat", ["A dog.", "Cat"], 2 / 3),
    ("longbook_qa_chn", "北京市。", ["北京"], 0.8),
    ("longbook_sum_eng", "a b\nc d", ["a b\nc d"], 1),
    ("longbook_sum_eng", "running", ["runs"], 0),  # no stemming
    ("longbook_sum_eng", "a b", ["x y", "a b"], 1),  # the best of the references
]


@pytest.mark.parametrize("scorer", ["2024-08", "2024-06"])
@pytest.mark.parametrize(("task", "prediction", "answer", "value"), BOTH)
def test_rules_of_both_generations(task: str, prediction: str, answer: Any, value: float, scorer: str) -> None:
    assert score(task, prediction, answer, scorer) == pytest.approx(value)


CHANGED: list[tuple[str, str, Any, float, float]] = [
    # task, prediction, label, June, August
    ("longbook_choice_eng", "A. no, it is B", ["Bob", "B"], 0, 1),
    ("longbook_choice_eng", "Bob", ["Bob", "B"], 1, 1),
    ("longbook_choice_eng", "the answer is: Bob Smith", ["Bob", "B"], 1, 1),
    ("longbook_choice_eng", "the answer is:", ["Bob", "B"], 0, 0),
    ("longbook_choice_eng", "so BCD it is", ["x", "BCD"], 1, 1),  # any part of "ABCD" is a letter to the official code
    ("longbook_choice_eng", "so B\nor C", ["x", "C"], 0, 0),  # "." ends at the line: B is the last letter found
    ("longbook_choice_eng", "B\n\nC", ["x", "B"], 1, 1),
    ("longbook_choice_eng", "", ["x", "B"], 0, 0),
    ("code_debug", "C. foo", ["foo", "C"], 1, 1),
    ("code_debug", "C", ["foo", "C"], 0, 1),
    ("code_debug", "foo has it", ["foo", "C"], 0, 1),
    ("code_debug", "The answer:foo", ["foo", "C"], 0, 0),  # one character after the phrase is always skipped
    ("code_debug", "The correct option is: `foo`", ["foo", "C"], 1, 1),
    ("code_debug", "The correct option is: foo", ["foo", "C"], 1, 1),
    ("code_debug", "answer is: D, well C", ["foo", "D"], 1, 1),
    ("longdialogue_qa_eng", "It is Ann.", ["ANN", "BOB"], 1, 1),
    ("longdialogue_qa_eng", "bob", ["ANN", "BOB"], 0, 1),
    ("longdialogue_qa_eng", "Mary Ann", ["MARY ANN"], 0, 1),  # two words never equal one
    ("longdialogue_qa_eng", "Joanna", ["ANN"], 0, 1),
]


@pytest.mark.parametrize(("task", "prediction", "answer", "june", "august"), CHANGED)
def test_what_changed_in_august(task: str, prediction: str, answer: Any, june: float, august: float) -> None:
    assert (score(task, prediction, answer, "2024-06"), score(task, prediction, answer)) == (june, august)


def test_gpt4_s_first_number_is_dropped() -> None:
    assert score("math_calc", "[5, 1, 2]", [1, 2]) == 0.0
    assert score("math_calc", "[5, 1, 2]", [1, 2], model="gpt4") == 1.0


def test_every_task_has_a_budget_and_a_score() -> None:
    assert set(SCORES) == set(MAX_NEW_TOKENS)
    assert len(SCORES) == 12
    assert set(JUNE_SCORES) < set(SCORES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("passkeys", "x", "1"), "did you mean passkey"),
        (("passkey", "x", "1", "2024-07"), "2024-06"),
        (("passkey", "x", []), "not empty"),
        (("math_find", "x", "1"), "is a number"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(*arguments)


def test_labels_are_those_of_get_answer() -> None:
    options = ["w", "x", "y", "z"]
    assert label("longbook_choice_eng", ["y"], options) == ["y", "C"]
    assert label("code_debug", "w", options) == ["w", "A"]
    assert label("code_debug", ["w", "A"], options) == ["w", "A"]
    assert label("math_find", ["3"], []) == [3]
    assert label("math_find", "2.5", []) == 2.5
    assert label("math_calc", ["1", "2"], []) == [1, 2]
    assert label("code_run", 4, []) == 4
    assert label("passkey", "01234", []) == "01234"


@pytest.mark.parametrize(
    ("task", "answer", "message"),
    [
        ("code_debug", ["v"], "not one of four options"),
        ("code_debug", ["w", "B"], "not the one of its option"),
        ("code_debug", ["w", ""], "not the one of its option"),
        ("code_debug", ["w", "AB"], "not the one of its option"),
        ("code_debug", ["w", 0], "not the one of its option"),
        ("code_debug", ["w", "A", "A"], "not one of four options"),
        ("code_run", "four", "is not a number"),
        ("code_run", "...", "is not a number"),
        ("code_run", "nan", "is not a number"),
        ("code_run", 4.5, "not a whole number"),
        ("code_run", True, "is not a number"),
        ("code_run", 10**30, "more than 15 digits"),
        ("code_run", "9" * 5000, "more than 15 digits"),
        ("code_run", [], "a list of 0 values"),
        ("math_find", float("nan"), "is not a number"),
        ("math_find", float("inf"), "is not a number"),
        ("math_find", ["3", "4"], "a list of 2 values"),
        ("math_calc", 4, "not a list of numbers"),
        ("math_calc", ["x"], "is not a number"),
        ("math_calc", [[1], [2]], "is not a number"),
        ("passkey", "12a45", "not a run of digits"),
        ("passkey", 12345, "is not text"),
        ("kv_retrieval", "two words", "not one word"),
        ("longbook_qa_eng", ["Ann", 3], "is not text"),
        ("longbook_qa_eng", float("nan"), "is not text"),
        ("longbook_qa_eng", ["A\x00nn"], "NUL"),
        ("longbook_qa_eng", [" "], "empty or blank"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(task: str, answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label(task, answer, ["w", "x", "y", "z"])


def test_the_paper_s_view_needs_its_three_tasks() -> None:
    scores = {"math_find": 0.1, "longbook_choice_eng": 0.2, "number_string": 0.3, "passkey": 0.4}
    [view] = views(scores)
    assert view.id == "infinitebench-sharedllm"
    assert view.columns == {"Math.Find": 0.1, "En.MC": 0.2, "Retrieve.Number": 0.3}
    del scores["number_string"]
    assert views(scores) == []
