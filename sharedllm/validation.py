"""What pydantic says about a value from outside, in our words, and settings checked with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sharedllm.errors import UserError, nearest, shown

T = TypeVar("T", bound=BaseModel)

LONGEST_PLACE = 200
"""Characters of a path to a field: its names come from outside."""
NUMBER, WHOLE, MAPPING, TIME = "a number", "a whole number", "names with values", "a date and time"
EXPECTED = {
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": WHOLE,
    "int_from_float": WHOLE,
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_sub_type": "text",
    "string_unicode": "text in UTF-8",
    "string_too_short": "{min_length} or more characters",
    "string_too_long": "{max_length} or fewer characters",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} or fewer entries",
    "dict_type": MAPPING,
    "mapping_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "none_required": "null",
    "is_instance_of": "{class}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "path_type": "a path",
    "union_tag_invalid": "{expected_tags}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "datetime_type": TIME,
    "datetime_parsing": TIME,
    "datetime_from_date_parsing": TIME,
    "datetime_object_invalid": TIME,
}
"""What a field wants, by pydantic's type of error; in braces what the error's context holds."""
PLAIN = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such field",
    "json_invalid": "it is not valid JSON ({error})",
    "string_pattern_mismatch": "it is not of the form {pattern}",  # not shown: it may be a key in the wrong place
    "value_error": "{error}",
    "assertion_error": "{error}",
    "union_tag_not_found": "it does not say what it is ({discriminator})",
}
"""Reasons that stand for themselves."""


@dataclass(frozen=True)
class Misfit:
    """The first thing that does not fit. place: the path to the field with dots, empty for the whole.

    reason: the end of a sentence: "expected a whole number, found 'x'". kind: pydantic's type of the error.
    """

    place: str
    reason: str
    kind: str


def misfit(error: ValidationError) -> Misfit:
    """What is wrong, in our words; pydantic's own only for a kind of error that no model of ours raises."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:LONGEST_PLACE]
    kind = first["type"]
    context = {name: _plain(value) for name, value in first.get("ctx", {}).items()}
    if kind in PLAIN:
        reason = PLAIN[kind].format(**context).rstrip(".")
    elif kind in EXPECTED:
        reason = f"expected {EXPECTED[kind].format(**context)}, found {shown(first['input'])}"
    else:
        reason = first["msg"].rstrip(".")
    return Misfit(place, reason, kind)


def _plain(value: object) -> object:
    """A limit as people write it: 1, not 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def validate(model: type[T], settings: Mapping[str, object], owner: str = "") -> T:
    """Settings as their pydantic model. owner: whose they are, for the message.

    Raises UserError that names key, owner and reason. Other than in pydantic, true and false are no numbers.
    """
    of = f" of {owner}" if owner else ""
    try:
        taken = model.model_validate(dict(settings))
    except ValidationError as error:
        found = misfit(error)
        end = "" if found.reason.endswith("?") else "."  # a reason may end by asking what was meant
        if not found.place:  # a rule about several of them
            raise UserError(f"The settings{of} do not fit together: {found.reason}{end}") from error
        if found.kind == "extra_forbidden" and found.place not in model.model_fields:
            hint = nearest(found.place, model.model_fields) if "." not in found.place else "leave it out."
            raise UserError(f"There is no setting {found.place}{of}: {hint}") from error
        raise UserError(f"The setting {found.place}{of} does not fit: {found.reason}{end}") from error
    for place, value, number in _truths_as_numbers(settings, taken):
        wanted = WHOLE if isinstance(number, int) else NUMBER
        raise UserError(f"The setting {place}{of} does not fit: expected {wanted}, found {shown(value)}.")
    return taken


def _truths_as_numbers(given: object, taken: Any, place: str = "") -> Iterator[tuple[str, bool, float]]:
    """Place, value and number of every true or false that became a number."""
    if isinstance(given, bool):
        numbers = taken if isinstance(taken, list | tuple) and taken else [taken]  # a single value may become a list
        if all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            yield place, given, numbers[0]
        return
    parts: list[tuple[object, object, object]] = []
    if isinstance(given, Mapping) and isinstance(taken, BaseModel):
        parts = [(name, value, getattr(taken, str(name), None)) for name, value in given.items()]
    elif isinstance(given, Mapping) and isinstance(taken, Mapping):
        parts = [(name, value, taken.get(name)) for name, value in given.items()]
    elif isinstance(given, Sequence) and isinstance(taken, list | tuple) and not isinstance(given, str):
        parts = [(i, *pair) for i, pair in enumerate(zip(given, taken, strict=False))]
    for name, value, result in parts:
        yield from _truths_as_numbers(value, result, f"{place}.{name}" if place else str(name))
