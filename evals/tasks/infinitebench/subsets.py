"""The twelve tasks of InfiniteBench: answer budgets, rows, what an answer is, named averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.tasks.common.view import View

MAX_NEW_TOKENS = {
    "passkey": 6,
    "number_string": 12,
    "kv_retrieval": 50,
    "longbook_sum_eng": 1200,
    "longbook_qa_eng": 40,
    "longbook_choice_eng": 40,
    "longdialogue_qa_eng": 40,
    "longbook_qa_chn": 40,
    "code_debug": 5,
    "code_run": 5,
    "math_calc": 30000,
    "math_find": 3,
}
"""Official answer budgets (src/eval_utils.py)."""

TASKS = tuple(MAX_NEW_TOKENS)
CHOICE_TASKS = ("longbook_choice_eng", "code_debug")
NUMBER_TASKS = ("code_run", "math_find", "math_calc")
DEPTH_SWEEPS = ("passkey", "number_string", "kv_retrieval")
"""Tasks whose rows walk through the needle's depth in order, so that the first rows alone say little."""

PAPER_TASKS = {"math_find": "Math.Find", "longbook_choice_eng": "En.MC", "number_string": "Retrieve.Number"}
"""The three tasks that the SharedLLM paper reports."""


def label(task: str, answer: Any, options: list[str]) -> Any:
    """A row's answer as the official get_answer gives it to the scorer.

    Multiple choice: [option text, letter]. Number tasks: numbers, where the hub's files hold them as text.
    Raises ValueError where the answer is not among the options, or no number.
    """
    if task in CHOICE_TASKS:
        if isinstance(answer, list) and len(answer) == 2 and answer[1] in "ABCD":
            return answer
        text = answer[0] if isinstance(answer, list) else answer
        if len(options) != 4 or text not in options:
            raise ValueError(f"the answer {text!r} is not one of four options")
        return [text, "ABCD"[options.index(text)]]
    if task in NUMBER_TASKS:
        return [_number(value) for value in answer] if isinstance(answer, list) else _number(answer)
    return answer


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        return float(value) if "." in value else int(value)
    return value


def views(scores: Mapping[str, float]) -> list[View]:
    """The one view that a paper defines, where all its tasks are there. InfiniteBench has no official average."""
    if not all(task in scores for task in PAPER_TASKS):
        return []
    columns = {name: scores[task] for task, name in PAPER_TASKS.items()}
    return [View("infinitebench-sharedllm", "InfiniteBench, tasks of the paper", columns)]
