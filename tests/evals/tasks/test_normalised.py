"""The second score: what counts as a difference of form, and that the official score stays as it is."""

from __future__ import annotations

import pytest

from evals.run.samples import score
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common.normalised import normalised, tidy
from evals.tasks.common.prompt import Prompt
from evals.tasks.longbench.task import LongBench
from evals.tasks.ruler.task import Ruler, RulerSettings
from evals.tasks.settings.official import OfficialSettings


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("4,179,392", "4179392"),
        ("It is 4 179 392.", "It is 4179392"),
        ("4.179.392 and 1'000'000", "4179392 and 1000000"),
        ("４１７９３９２", "4179392"),
        ("1.234 or 1,23 or 1, 234", "1.234 or 1,23 or 1, 234"),
        ("pages 12 345, 3,4, 2026-11-29, a1,234", "pages 12 345, 3,4, 2026-11-29, a1,234"),
        ("1,234.56", "1,234.56"),
        ("**Ann**, `x_1` and __b__", "Ann, x_1 and b"),
        ("# Answer\n- Ann\n> Bob", "Answer\nAnn\nBob"),
        (' "Ann." ', '"Ann'),
        ("", ""),
    ],
)
def test_differences_of_form(text: str, plain: str) -> None:
    assert tidy(text) == plain


def test_what_the_reference_says_is_written_as_there() -> None:
    assert normalised("it was ANN SMITH, 1234567 times", ["Ann Smith", {"x": "1,234,567"}]) == (
        "it was Ann Smith, 1,234,567 times"
    )
    assert normalised("51234", "1,234") == "51234"
    assert normalised("annual", "Ann") == "annual"
    assert normalised("a\\b", "A\\b") == "A\\b"


def scored(task: LongBench | Ruler, answer: str, reference: object) -> dict[str, float]:
    meta = {"all_classes": ["Location", "Person"]}
    return score(task, Instance("0", Prompt([], [1], [2]), reference=reference, meta=meta), Output([1], answer))


def test_the_official_score_stays_beside_it() -> None:
    ruler = Ruler("vt", RulerSettings(), DataSource())
    assert scored(ruler, "4,179,392", ["4179392"]) == {"score": 0, "normalised": 1}
    assert scored(ruler, "4179392", ["4179392"]) == {"score": 1, "normalised": 1}
    trec = LongBench("trec", OfficialSettings(), DataSource())
    assert scored(trec, "**location**", ["Location"]) == {"score": 0, "normalised": 1}


def test_it_is_never_below_the_official_score() -> None:
    """A scorer that wants the very punctuation that is dropped."""
    code = LongBench("lcc", OfficialSettings(), DataSource())
    found = scored(code, "return f(x)", ["return f(x)"])
    assert found["score"] == found["normalised"] == 1


def test_scored_tokens_have_no_second_score() -> None:
    ruler = Ruler("vt", RulerSettings(), DataSource())
    instance = Instance("0", Prompt([], [1], [2]), target=[3], reference=["1"])
    assert score(ruler, instance, Output()) == {"score": 0}
