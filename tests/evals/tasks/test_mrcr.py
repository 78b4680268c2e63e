"""MRCR: the n-th of the alike texts is asked for, prompts fit, answers are scored as published."""

from __future__ import annotations

import re

import pytest

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import DataSource, Output
from evals.tasks.mrcr.scores import score
from evals.tasks.mrcr.task import ORDINALS, SUBSETS, Mrcr, MrcrSettings


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(258)


def task(subset: str = "2needle", **settings) -> Mrcr:
    return Mrcr(subset, MrcrSettings(**settings), DataSource())


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("length", [3000, 8192])
def test_the_reference_is_the_nth_alike_text_of_the_prompt(tokenizer, subset: str, length: int) -> None:
    made = task(subset)
    for instance in made.instances(tokenizer, length, 4, 0):
        prompt = instance.prompt
        text = tokenizer.decode([*prompt.prefix, *prompt.context, *prompt.query], skip_special_tokens=True)
        prefix, ordinal, what = re.search(r"Write (\w{10}) and .* repeat the (\w+) (.*)\. Write nothing", text).groups()
        alike = re.findall(rf"User: Write a {what}\.\n\nAssistant: (.*)\n", text)
        assert len(alike) == len(set(alike)) == SUBSETS[subset]
        right = prefix + alike[ORDINALS.index(ordinal)]
        assert instance.reference == right
        assert len(right) <= instance.max_new_tokens
        scored = made.evaluate(instance, Output(text=f" {right}\n\nUser: Write a poem"))
        assert scored["score"] == 1
        others = [score(prefix + other, right, prefix) for other in alike if prefix + other != right]
        assert scored["chance"] == pytest.approx(sum(others) / len(others))
        assert 0 < scored["chance"] < 1
        assert made.evaluate(instance, Output(text=right[1:]))["score"] == 0
        assert length * 0.85 < len(prompt) + instance.max_new_tokens <= length
        assert prompt.audit.cut_tokens == 0


def test_instances_depend_on_the_arguments_alone(tokenizer) -> None:
    five, two = list(task().instances(tokenizer, 3000, 5, 0)), list(task().instances(tokenizer, 3000, 2, 0))
    assert two == five[:2]
    assert len({instance.reference for instance in five}) == 5


def test_a_length_without_room_is_one_sentence(tokenizer) -> None:
    with pytest.raises(UserError, match="cannot hold mrcr 8needle"):
        list(task("8needle").instances(tokenizer, 1024, 1, 0))


@pytest.mark.parametrize(
    ("response", "expected"),
    [("PREabcd", 1), ("PREab", 2 / 3), ("PRE", 0), ("abcd", 0), ("x PREabcd", 0), ("", 0)],
)
def test_the_score_is_the_ratio_after_the_prefix(response: str, expected: float) -> None:
    assert score(response, "PREabcd", "PRE") == pytest.approx(expected)
