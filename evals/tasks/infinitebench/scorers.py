"""InfiniteBench's scores of one prediction, in 0..1, in both generations of the official scorer.

"2024-06" is compute_scores.py as it stood in June 2024 (github OpenBMB/InfiniteBench 88b3daa), which gave
the numbers of the paper and of most early users. "2024-08" is the version since August 2024 (pull request 22):
multiple choice and code_debug first look at the last stand-alone letter, dialogue accepts any label as a
substring. The other nine tasks are the same in both. Odd rules are kept: they are part of published numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from evals.errors import UserError, unknown
from evals.tasks.common.text_f1 import normalize_zh, qa_f1, token_f1
from evals.tasks.infinitebench.labels import Label, Number

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

SCORERS = ("2024-08", "2024-06")
CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
DEBUG_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")
SENTENCE_MARKS = ("\n", '"', "'", ".", ",", "?", "!", "{", "}")


def score(
    task: str, prediction: str, label: Label | list[list[Number]], scorer: str = "2024-08", model: str = ""
) -> float:
    """Score of a prediction in 0..1.

    label: as the official get_answer gives it: [option text, letter] for longbook_choice_eng and code_debug,
    numbers for code_run, math_find and math_calc, else a text or a list of texts. model: the official code
    drops the first number of math_calc's prediction for "gpt4", whose prompt makes it repeat the first operand.
    Raises UserError for an unknown task or scorer, and for a label that is empty or of another kind.
    """
    if task not in SCORES:
        raise unknown("InfiniteBench task", task, SCORES)
    if scorer not in SCORERS:
        raise unknown("InfiniteBench scorer", scorer, SCORERS)
    if task in NUMBER_SCORES:
        numbers = _numbers(task, label)
        if task == "math_calc" and model == "gpt4":
            return _math_calc(prediction, numbers, dropped=1)
        return float(NUMBER_SCORES[task](prediction, numbers))
    rule = JUNE_SCORES[task] if scorer == "2024-06" and task in JUNE_SCORES else TEXT_SCORES[task]
    return float(rule(prediction, _texts(task, label)))


def _texts(task: str, label: Label | list[list[Number]]) -> list[str]:
    texts = label if isinstance(label, list) else [label]
    found = [text for text in texts if isinstance(text, str)]
    if not any(found) or len(found) != len(texts):
        raise UserError(f"A prediction for {task} needs a label that is text and not empty, not {label!r}.")
    return found


def _numbers(task: str, label: Label | list[list[Number]]) -> list[Number]:
    values = label if isinstance(label, list) else [label]
    values = values[0] if values and isinstance(values[0], list) else values
    found = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not found or len(found) != len(values):
        raise UserError(f"A prediction for {task} needs a label that is a number or a list of them, not {label!r}.")
    return found


def _blank(text: str, marks: Sequence[str]) -> str:
    for mark in marks:
        text = text.replace(mark, " ")
    return text


def _squeeze(text: str) -> str:
    """Runs of spaces made one; other white space stays."""
    return re.sub(" {2,}", " ", text)


def _digits(prediction: str, label: Sequence[str]) -> bool:
    """passkey and number_string: the first run of digits is the key."""
    found = re.search("[0-9]+", prediction)
    return (found.group(0) if found else "") == label[0]


def _kv_retrieval(prediction: str, label: Sequence[str]) -> bool:
    return label[0] in _blank(prediction, (*SENTENCE_MARKS, ":")).split()


def _code_run(prediction: str, label: Sequence[Number]) -> bool:
    """The last word is the value."""
    words = _blank(prediction.strip(), ("\n", ".", "`", "'", '"', ":")).split()
    try:
        return bool(words) and int(words[-1]) == label[0]
    except ValueError:
        return False


def _math_find(prediction: str, label: Sequence[Number]) -> bool:
    """The first number is the label, as an integer or a float after the label's type.

    The official code fails on a float found for an integer label; that is scored 0 here.
    """
    wanted = label[0]
    found = re.search(r"\d+\.\d+|\d+", prediction)
    if found is None or (isinstance(wanted, int) and "." in found.group(0)):
        return False
    return float(found.group(0)) == wanted


def _math_calc(prediction: str, label: Sequence[Number], dropped: int = 0) -> float:
    """Share of the running values that are right before the first wrong one."""
    found = re.findall("[0-9]+", prediction)[dropped:]
    right = 0
    for ours, theirs in zip(found, label, strict=False):
        if float(ours) != theirs:
            break
        right += 1
    return right / len(label)


def _last_letter(prediction: str, letters: str) -> str | None:
    """The last stand-alone letter of the first line that has one: "." stops at line ends in the official regex."""
    found = re.search(rf"\b[{letters}]\b(?!.*\b[{letters}]\b)", prediction)
    return found.group(0) if found else None


def _choice(prediction: str, label: Sequence[str]) -> bool:
    letter = _last_letter(prediction.strip(), "A-D")
    return (letter is not None and letter in label) or _choice_june(prediction, label)


def _choice_june(prediction: str, label: Sequence[str]) -> bool:
    """First letter, whole answer, text after an answer phrase, or the first word that is part of "ABCD"."""
    text = prediction.strip()
    if not text:
        return False
    if text[0] in "ABCD":
        return text[0] in label
    if text in label:
        return True
    text = _squeeze(_blank(text, SENTENCE_MARKS))
    after = _after_prefix(text, CHOICE_PREFIXES)
    if after is not None:
        return any(after.startswith(wanted) for wanted in label) if after else False
    return next((word in label for word in text.split() if word in "ABCD"), False)


def _after_prefix(text: str, prefixes: Sequence[str]) -> str | None:
    """Text after the first listed phrase that occurs, less the character that follows it; None: no phrase."""
    for prefix in prefixes:
        at = text.find(prefix)
        if at != -1:
            return text[at + len(prefix) + 1 :]
    return None


def _code_debug(prediction: str, label: Sequence[str]) -> bool:
    text = prediction.strip()
    name, letter = label[0], label[1]
    if _last_letter(text, "A-J") == letter:
        return True
    return _debug_text(text).startswith((letter, name)) or _debug_phrase(text, label)


def _code_debug_june(prediction: str, label: Sequence[str]) -> bool:
    text = prediction.strip()
    return text[:2] in (f"{label[1]}.", f"{label[1]}:") or _debug_phrase(text, label)


def _debug_text(text: str) -> str:
    return _squeeze(_blank(text, ("\n", "`", "'", '"', "-", "*", "Option", "option")))


def _debug_phrase(text: str, label: Sequence[str]) -> bool:
    after = _after_prefix(_debug_text(text), DEBUG_PREFIXES)
    return after is not None and after != "" and after.startswith((label[1], label[0]))


def _dialogue(prediction: str, label: Sequence[str]) -> bool:
    return any(name.upper() in prediction.strip().upper() for name in label)


def _dialogue_june(prediction: str, label: Sequence[str]) -> bool:
    """The first label is one of the upper-cased words, so a name of two words never is."""
    return label[0] in _blank(prediction.strip(), (*SENTENCE_MARKS, ":")).upper().split()


def _qa_eng(prediction: str, label: Sequence[str]) -> float:
    return max(qa_f1(prediction, answer) for answer in label)


def _qa_chn(prediction: str, label: Sequence[str]) -> float:
    """F1 over characters."""
    return max(token_f1(normalize_zh(prediction), normalize_zh(answer)) for answer in label)


@cache
def _rouge_scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeLsum"], use_stemmer=False)


def _sum_eng(prediction: str, label: Sequence[str]) -> float:
    """ROUGE-Lsum F of Google's rouge-score without stemming, a line being a sentence; the best of the labels."""
    return max(float(_rouge_scorer().score(text, prediction)["rougeLsum"].fmeasure) for text in label)


TEXT_SCORES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "passkey": _digits,
    "number_string": _digits,
    "kv_retrieval": _kv_retrieval,
    "longbook_sum_eng": _sum_eng,
    "longbook_qa_eng": _qa_eng,
    "longbook_choice_eng": _choice,
    "longdialogue_qa_eng": _dialogue,
    "longbook_qa_chn": _qa_chn,
    "code_debug": _code_debug,
}
NUMBER_SCORES: dict[str, Callable[[str, Sequence[Number]], float]] = {
    "code_run": _code_run,
    "math_calc": _math_calc,
    "math_find": _math_find,
}
JUNE_SCORES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "longbook_choice_eng": _choice_june,
    "longdialogue_qa_eng": _dialogue_june,
    "code_debug": _code_debug_june,
}
SCORES = (*TEXT_SCORES, *NUMBER_SCORES)
"""All twelve tasks."""
