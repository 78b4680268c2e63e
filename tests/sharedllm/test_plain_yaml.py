"""YAML from outside gives plain values or one sentence, within bounds."""

from __future__ import annotations

import pytest

from sharedllm.plain_yaml import assignments, load


def test_plain_values_are_yaml_s() -> None:
    text = "a: [1, 2.5, .inf, true, null]\nb: {c: 'x', d: 2020-01-01}\n"
    assert load(text) == {"a": [1, 2.5, float("inf"), True, None], "b": {"c": "x", "d": "2020-01-01"}}


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "\n".join(f"{k}: &{k} [*a,*a,*a,*a,*a,*a,*a,*a,*a]" for k in "bcdefgh")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "anchors"),
        ("&a [*a]", "anchors"),
        ("a: 1\na: 2", "twice"),
        ("{1: 2}", "not text"),
        ("{[1]: 2}", "not text|not valid"),
        ("!!set {a, b}", "not valid YAML"),
        ("!!binary aGk=", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[" * 200 + "]" * 200, "nested"),
        ("[" * 100_000, "nested"),
        ("a: [1", "not valid YAML"),
        ("x" * (1 << 20) + "x", "1 MiB"),
        ("9" * 5000, "integer|digits"),
        ("\x00", "not valid YAML"),
    ],
)
def test_anything_else_is_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        load(text)
    assert "\n" not in str(error.value)


def test_assignments() -> None:
    assert assignments(["depths=3", "a.b=[1, 2]", "text=x=y", "none="]) == {
        "depths": 3,
        "a.b": [1, 2],
        "text": "x=y",
        "none": None,
    }
    for bad in ("depths", "=3", "a=[1", "a=*x", "a=!!set {x}"):
        with pytest.raises(ValueError, match="--set"):
            assignments([bad])
