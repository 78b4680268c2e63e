"""What is said about a value that does not fit: our words for every kind of error, and no true for a 1."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from sharedllm.errors import UserError
from sharedllm.training.settings import TrainSettings
from sharedllm.validation import misfit, validate


class Inner(BaseModel):
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")

    samples: Annotated[int, Field(ge=1, lt=100)] = 1
    rate: Annotated[float, Field(gt=0)] = 1.0
    on: bool = False
    name: Annotated[str, Field(min_length=2, max_length=4, pattern="^[a-z]+$")] = "ab"
    mode: Literal["lm", "sft"] = "lm"
    sizes: Annotated[list[int], Field(min_length=1, max_length=2)] = [1]
    pair: tuple[float, float] = (0, 0)
    inner: Inner = Inner()
    stages: list[Inner] = []
    free: dict[str, JsonValue] = {}
    begun: datetime | None = None
    even: int = 0
    either: int | str = 0

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd.")
        return value

    @field_validator("sizes", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return value if isinstance(value, list) else [value]


CASES: list[tuple[dict[str, Any], str]] = [
    ({"samples": "x"}, "samples: expected a whole number, found 'x'"),
    ({"samples": 1.5}, "samples: expected a whole number, found 1.5"),
    ({"samples": None}, "samples: expected a whole number, found null"),
    ({"samples": "9" * 5000}, "samples: expected a whole number, found '99999"),
    ({"samples": 0}, "samples: expected 1 or more, found 0"),
    ({"samples": 100}, "samples: expected less than 100, found 100"),
    ({"samples": 10**5000}, "samples: expected less than 100, found a number of thousands of digits"),
    ({"rate": []}, "rate: expected a number, found []"),
    ({"rate": "a"}, "rate: expected a number, found 'a'"),
    ({"rate": 0}, "rate: expected more than 0, found 0"),
    ({"on": "maybe"}, "on: expected true or false, found 'maybe'"),
    ({"on": []}, "on: expected true or false, found []"),
    ({"name": 3}, "name: expected text, found 3"),
    ({"name": "a"}, "name: expected 2 or more characters, found 'a'"),
    ({"name": "abcde"}, "name: expected 4 or fewer characters, found 'abcde'"),
    ({"name": "A1"}, "name: it is not of the form ^[a-z]+$"),
    ({"mode": "rl"}, "mode: expected 'lm' or 'sft', found 'rl'"),
    ({"sizes": []}, "sizes: expected 1 or more entries, found []"),
    ({"sizes": [1, 2, 3]}, "sizes: expected 2 or fewer entries, found [1, 2, 3]"),
    ({"sizes": [1, "b"]}, "sizes.1: expected a whole number, found 'b'"),
    ({"pair": 3}, "pair: expected a list, found 3"),
    ({"pair": [1]}, "pair.1: it is missing"),
    ({"inner": 3}, "inner: expected names with values, found 3"),
    ({"inner": {"share": float("nan")}}, "inner.share: expected a finite number, found nan"),
    ({"stages": {}}, "stages: expected a list, found {}"),
    ({"stages": [{}, {"share": 2}]}, "stages.1.share: expected 1 or less, found 2"),
    ({"free": [1]}, "free: expected names with values, found [1]"),
    ({"begun": "yesterday"}, "begun: expected a date and time, found 'yesterday'"),
    ({"begun": []}, "begun: expected a date and time, found []"),
    ({"even": 3}, "even: 3 is odd"),
    ({"other": 3}, "other: there is no such field"),
]


@pytest.mark.parametrize(("given", "sentence"), CASES, ids=[sentence[:30] for _, sentence in CASES])
def test_what_does_not_fit_is_said_in_our_words(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        Everything.model_validate(given)
    found = misfit(error.value)
    assert f"{found.place}: {found.reason}".startswith(sentence)
    for words in ("Input", "should", "permitted", "required", "Value error"):
        assert words not in found.reason
    if found.kind == "extra_forbidden":
        return
    with pytest.raises(UserError) as refused:
        validate(Everything, given, "it")
    assert str(refused.value) == f"The setting {found.place} of it does not fit: {found.reason}."


def test_a_setting_that_is_not_there_has_a_hint() -> None:
    with pytest.raises(UserError, match=r"^There is no setting sample of it: did you mean samples"):
        validate(Everything, {"sample": 1}, "it")
    with pytest.raises(UserError, match=r"^There is no setting zzz: known: begun, either, "):
        validate(Everything, {"zzz": 1})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"samples": True}, "samples of it does not fit: expected a whole number, found true."),
        ({"rate": True}, "rate of it does not fit: expected a number, found true."),
        ({"sizes": [1, True]}, "sizes.1 of it does not fit: expected a whole number, found true."),
        ({"sizes": True}, "sizes of it does not fit: expected a whole number, found true."),
        ({"pair": [False, 1]}, "pair.0 of it does not fit: expected a number, found false."),
        ({"stages": [{"share": 0.5}, {"share": True}]}, "stages.1.share of it does not fit: expected a number, found"),
        ({"even": False}, "even of it does not fit: expected a whole number, found false."),
        ({"either": True}, "either of it does not fit: expected a whole number, found true."),
    ],
)
def test_true_is_not_one(given: Mapping[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        validate(Everything, given, "it")
    assert str(error.value).startswith(f"The setting {sentence}")


def test_true_is_true() -> None:
    assert validate(Everything, {"on": True, "free": {"a": [True]}}).on
    assert validate(TrainSettings, {"compile": True}).compile


@pytest.mark.parametrize("name", [n for n, f in TrainSettings.model_fields.items() if f.annotation is not bool])
@pytest.mark.parametrize("value", [True, [True]])
def test_no_setting_of_training_takes_true_for_a_number(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"The setting {name}.* does not fit: expected"):
        validate(TrainSettings, {name: value})
