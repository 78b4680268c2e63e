"""InfiniteBench's scores of one prediction, in 0..1, in both generations of the official scorer.

"2024-06" is compute_scores.py as it stood in June 2024 (github OpenBMB/InfiniteBench 88b3daa), behind the
numbers of the paper and of most early users. "2024-08" is the version since August 2024 (pull request 22):
multiple choice and code_debug first look at the last stand-alone letter, dialogue accepts any label as a
substring. The other nine tasks are the same in both. Odd rules are kept: they are part of published numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from evals.errors import UserError, unknown
from evals.tasks.common.text_f1 import normalize_zh, qa_f1, token_f1

SCORERS = ("2024-08", "2024-06")
CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
DEBUG_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")
SENTENCE_MARKS = ("\n", '"', "'", ".", ",", "?", "!", "{", "}")


def score(task: str, prediction: str, label: Any, scorer: str = "2024-08", model: str = "") -> float:
    """Score of a prediction in 0..1.

    label: as the official get_answer gives it: [option text, letter] for longbook_choice_eng and code_debug,
    numbers for code_run, math_find and math_calc, else a text or a list of texts. model: the official code
    drops the first number of math_calc's prediction for "gpt4", whose prompt makes it repeat the first operand.
    Raises UserError for an unknown task or scorer, and for an empty label.
    """
    if task not in TASK_SCORES:
        raise unknown("InfiniteBench task", task, TASK_SCORES)
    if scorer not in SCORERS:
        raise unknown("InfiniteBench scorer", scorer, SCORERS)
    if label is None or (isinstance(label, (list, str)) and not label):
        raise UserError(f"A prediction for {task} needs a label that is not empty.")
    if task == "math_calc" and model == "gpt4":
        return _math_calc(prediction, label, dropped=1)
    if scorer == "2024-06" and task in JUNE_SCORES:
        return float(JUNE_SCORES[task](prediction, label))
    return float(TASK_SCORES[task](prediction, label))


def _first(label: Any) -> Any:
    return label[0] if isinstance(label, list) else label


def _blank(text: str, marks: Sequence[str]) -> str:
    for mark in marks:
        text = text.replace(mark, " ")
    return text


def _squeeze(text: str) -> str:
    """Runs of spaces made one; other white space stays."""
    return re.sub(" {2,}", " ", text)


def _digits(prediction: str, label: Any) -> bool:
    """passkey and number_string: the first run of digits is the key."""
    found = re.search("[0-9]+", prediction)
    return (found.group(0) if found else "") == _first(label)


def _kv_retrieval(prediction: str, label: Any) -> bool:
    return _first(label) in _blank(prediction, (*SENTENCE_MARKS, ":")).split()


def _code_run(prediction: str, label: Any) -> bool:
    """The last word is the value."""
    words = _blank(prediction.strip(), ("\n", ".", "`", "'", '"', ":")).split()
    try:
        return bool(words) and int(words[-1]) == _first(label)
    except ValueError:
        return False


def _math_find(prediction: str, label: Any) -> bool:
    """The first number is the label, as an integer or a float after the label's type.

    The official code fails on a float found for an integer label; that is scored 0 here.
    """
    wanted = _first(label)
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
        raise UserError(f"The label of a math_find prediction is a number, not {wanted!r}.")
    found = re.search(r"\d+\.\d+|\d+", prediction)
    if found is None or (isinstance(wanted, int) and "." in found.group(0)):
        return False
    return float(found.group(0)) == wanted


def _math_calc(prediction: str, label: Any, dropped: int = 0) -> float:
    """Share of the running values that are right before the first wrong one."""
    wanted = label[0] if isinstance(label[0], list) else label
    found = re.findall("[0-9]+", prediction)[dropped:]
    right = 0
    for ours, theirs in zip(found, wanted, strict=False):
        if float(ours) != theirs:
            break
        right += 1
    return right / len(wanted)


def _last_letter(prediction: str, letters: str) -> str | None:
    """The last stand-alone letter of the first line that has one: "." stops at line ends in the official regex."""
    found = re.search(rf"\b[{letters}]\b(?!.*\b[{letters}]\b)", prediction)
    return found.group(0) if found else None


def _choice(prediction: str, label: Any) -> bool:
    letter = _last_letter(prediction.strip(), "A-D")
    return (letter is not None and letter in label) or _choice_june(prediction, label)


def _choice_june(prediction: str, label: Any) -> bool:
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


def _code_debug(prediction: str, label: Any) -> bool:
    text = prediction.strip()
    name, letter = label[0], label[1]
    if _last_letter(text, "A-J") == letter:
        return True
    return _debug_text(text).startswith((letter, name)) or _debug_phrase(text, label)


def _code_debug_june(prediction: str, label: Any) -> bool:
    text = prediction.strip()
    return text[:2] in (f"{label[1]}.", f"{label[1]}:") or _debug_phrase(text, label)


def _debug_text(text: str) -> str:
    return _squeeze(_blank(text, ("\n", "`", "'", '"', "-", "*", "Option", "option")))


def _debug_phrase(text: str, label: Any) -> bool:
    after = _after_prefix(_debug_text(text), DEBUG_PREFIXES)
    return after is not None and after != "" and after.startswith((label[1], label[0]))


def _dialogue(prediction: str, label: Any) -> bool:
    return any(name.upper() in prediction.strip().upper() for name in label)


def _dialogue_june(prediction: str, label: Any) -> bool:
    """The first label is one of the upper-cased words, so a name of two words never is."""
    return label[0] in _blank(prediction.strip(), (*SENTENCE_MARKS, ":")).upper().split()


def _qa_eng(prediction: str, label: Any) -> float:
    return max(qa_f1(prediction, answer) for answer in label)


def _qa_chn(prediction: str, label: Any) -> float:
    """F1 over characters."""
    return max(token_f1(normalize_zh(prediction), normalize_zh(answer)) for answer in label)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeLsum"], use_stemmer=False)


def _sum_eng(prediction: str, label: Any) -> float:
    """ROUGE-Lsum F of Google's rouge-score without stemming, a line being a sentence; the best of the labels."""
    references = label if isinstance(label, list) else [label]
    return max(_rouge_scorer().score(text, prediction)["rougeLsum"].fmeasure for text in references)


TASK_SCORES: dict[str, Callable[[str, Any], float | bool]] = {
    "passkey": _digits,
    "number_string": _digits,
    "kv_retrieval": _kv_retrieval,
    "longbook_sum_eng": _sum_eng,
    "longbook_qa_eng": _qa_eng,
    "longbook_choice_eng": _choice,
    "longdialogue_qa_eng": _dialogue,
    "longbook_qa_chn": _qa_chn,
    "code_debug": _code_debug,
    "code_run": _code_run,
    "math_calc": _math_calc,
    "math_find": _math_find,
}
JUNE_SCORES: dict[str, Callable[[str, Any], float | bool]] = {
    "longbook_choice_eng": _choice_june,
    "longdialogue_qa_eng": _dialogue_june,
    "code_debug": _code_debug_june,
}
