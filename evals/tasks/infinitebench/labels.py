"""What the answer of an InfiniteBench row is: the label that the official get_answer hands to the scorer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

Number = int | float
Value = str | Number
Label = Value | list[str] | list[Number]
"""A text, a number, or a list of one kind, as it is stored with a sample."""
Answer = Value | Sequence[Value | list[int]]
"""The field `answer` of a file, which may hold numbers as text."""

LETTERS = "ABCD"
CHOICE_TASKS = ("longbook_choice_eng", "code_debug")
KEY_TASKS = ("passkey", "number_string")
DIGITS = 15
"""Numbers of more digits are in no official row, and floats could not tell them apart."""


def label(task: str, answer: Answer, options: Sequence[str]) -> Label:
    """The label of a row. Multiple choice: [option text, letter]. code_run, math_find: a number.
    math_calc: a list of them.

    Raises ValueError that says what is wrong with the answer.
    """
    if task in CHOICE_TASKS:
        return _choice(answer, options)
    if task == "math_calc":
        values = answer[0] if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], list) else answer
        if not isinstance(values, list) or not values:
            raise ValueError("the answer is not a list of numbers")
        return list[Number](_integer(value) for value in values)
    if task in ("code_run", "math_find"):
        return _single(answer, _integer if task == "code_run" else _number)
    return _texts(task, answer)


def _single(answer: Answer, read: Callable[[object], Number]) -> Label:
    """One number, in a list where the file has it in one."""
    if not isinstance(answer, list):
        return read(answer)
    if len(answer) != 1:
        raise ValueError(f"the answer is a list of {len(answer)} values, not one number")
    return [read(answer[0])]


def _integer(value: object) -> int:
    number = _number(value)
    if not isinstance(number, int):
        raise ValueError(f"the answer {number!r} is not a whole number")
    return number


def _number(value: object) -> Number:
    """A finite number of ordinary size, from a number or its digits."""
    if isinstance(value, str):
        if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value.strip()):
            raise ValueError(f"the answer {_short(value)} is not a number")
        if len(value.strip()) > 2 * DIGITS:
            raise ValueError(f"the answer is a number of more than {DIGITS} digits")
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the answer {_short(value)} is not a number")
    if abs(value) >= 10**DIGITS:
        raise ValueError(f"the answer is a number of more than {DIGITS} digits")
    return value


def _choice(answer: Answer, options: Sequence[str]) -> list[str]:
    """[option text, letter], from the text of an option, alone or in a list, or from both."""
    given = list(answer) if isinstance(answer, list) else [answer]
    if len(options) != 4:
        raise ValueError(f"there are {len(options)} options, and a multiple-choice row has four")
    if not 1 <= len(given) <= 2 or given[0] not in options:
        raise ValueError(f"the answer {_short(given[0] if given else given)} is not one of four options")
    letters = [letter for letter, option in zip(LETTERS, options, strict=True) if option == given[0]]
    if len(given) == 1:
        return [str(given[0]), letters[0]]
    if given[1] not in letters:
        raise ValueError(f"the answer's letter {_short(given[1])} is not the one of its option ({letters[0]})")
    return [str(given[0]), str(given[1])]


def _texts(task: str, answer: Answer) -> str | list[str]:
    given = answer if isinstance(answer, list) else [answer]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) != len(given):
        raise ValueError(f"the answer {_short(answer)} is not text")
    if not any(text.strip() for text in texts):
        raise ValueError("the answer is empty or blank")
    if any("\x00" in text for text in texts):
        raise ValueError("the answer holds a NUL character")
    if task in KEY_TASKS and not all(re.fullmatch("[0-9]+", text) for text in texts):
        raise ValueError(f"the answer {_short(answer)} is not a run of digits")
    if task == "kv_retrieval" and any(len(text.split()) != 1 for text in texts):
        raise ValueError(f"the answer {_short(answer)} is not one word")
    return texts if isinstance(answer, list) else texts[0]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
