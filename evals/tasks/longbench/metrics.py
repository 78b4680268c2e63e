"""LongBench's metrics, each of one prediction against one answer, in 0..1 (github THUDM/LongBench, metrics.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evals.errors import UserError
from evals.tasks.common.text_f1 import normalize_zh, qa_f1, token_f1
from evals.tasks.longbench import datasets, fuzzy, rouge_l
from evals.tasks.longbench.words import segment


@dataclass(frozen=True)
class Score:
    """value in 0..1. recursion: an answer counted 0 because the official scorer would hit its recursion limit."""

    value: float
    recursion: bool = False


def score(dataset: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] | None = None) -> Score:
    """Score of a prediction: official post-processing, then the best of its answers.

    all_classes: the class names, for trec and lsht. Raises UserError for an unknown data set, no answers, or
    missing class names.
    """
    known = datasets.get(dataset)
    if isinstance(answers, str) or not answers:
        raise UserError(f"A prediction for {dataset} needs a list of one or more answers, not {answers!r}.")
    if known.metric == "classification" and not all_classes:
        raise UserError(f"A prediction for {dataset} needs the class names: give the row's all_classes.")
    if known.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric = METRICS[known.metric]
    scores = [metric(prediction, answer, all_classes or ()) for answer in answers]
    return Score(max(s.value for s in scores), any(s.recursion for s in scores))


def _qa_f1(prediction: str, answer: str, _: Sequence[str]) -> Score:
    return Score(qa_f1(prediction, answer))


def _qa_f1_zh(prediction: str, answer: str, _: Sequence[str]) -> Score:
    """F1 over jieba's words of the raw texts, each normalised after the cut; emptied words are dropped."""
    words = [[w for w in map(normalize_zh, segment(text)) if w] for text in (prediction, answer)]
    return Score(token_f1(*words))


def _rouge(prediction: str, answer: str, _: Sequence[str]) -> Score:
    result = rouge_l.rouge_l(prediction, answer)
    return Score(result.f, result.recursion)


def _rouge_zh(prediction: str, answer: str, _: Sequence[str]) -> Score:
    ours, theirs = (" ".join(segment(text)) for text in (prediction, answer))
    result = rouge_l.rouge_l(ours, theirs, max_calls=rouge_l.OFFICIAL_CALLS - 1)
    return Score(result.f, result.recursion)


def _classification(prediction: str, answer: str, all_classes: Sequence[str]) -> Score:
    """1 / (number of class names found), if the right one is among them.

    Names inside the right name are struck out while the list is being walked, so that the name after a struck
    one is never looked at: part of the published numbers.
    """
    found = [name for name in all_classes if name in prediction]
    for name in found:
        if name in answer and name != answer:
            found.remove(name)
    return Score(1.0 / len(found) if answer in found else 0.0)


def _share_of_numbers(prediction: str, right: str) -> Score:
    """Share of the numbers in a prediction that are the right one: repeating it among wrong ones pays."""
    numbers = re.findall(r"\d+", prediction)
    return Score(numbers.count(right) / len(numbers) if numbers else 0.0)


def _count(prediction: str, answer: str, _: Sequence[str]) -> Score:
    return _share_of_numbers(prediction, answer)


def _retrieval(pattern: str) -> Callable[[str, str, Sequence[str]], Score]:
    def metric(prediction: str, answer: str, _: Sequence[str]) -> Score:
        match = re.search(pattern, answer)
        if match is None:
            raise UserError(f"The answer {answer!r} names no paragraph: it should match {pattern!r}.")
        return _share_of_numbers(prediction, match.group(1))

    return metric


def _code_sim(prediction: str, answer: str, _: Sequence[str]) -> Score:
    """Similarity of the first line without a backquote, "#" or "//": it may be a blank one."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((text for text in lines if not any(mark in text for mark in ("`", "#", "//"))), "")
    return Score(fuzzy.ratio(line, answer) / 100)


METRICS: dict[str, Callable[[str, str, Sequence[str]], Score]] = {
    "qa_f1": _qa_f1,
    "qa_f1_zh": _qa_f1_zh,
    "rouge": _rouge,
    "rouge_zh": _rouge_zh,
    "classification": _classification,
    "count": _count,
    "retrieval": _retrieval(datasets.ANSWERS["retrieval"]),
    "retrieval_zh": _retrieval(datasets.ANSWERS["retrieval_zh"]),
    "code_sim": _code_sim,
}
