"""The twelve tasks of InfiniteBench: answer budgets, depth sweeps, named averages."""

from __future__ import annotations

from collections.abc import Mapping

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
DEPTH_SWEEPS = ("passkey", "number_string", "kv_retrieval")
"""Tasks whose rows walk through the needle's depth in order, so that the first rows alone say little."""
ASKED_INSIDE = ("longdialogue_qa_eng", "math_calc")
"""Tasks whose context holds the question itself: a masked name, an expression to be evaluated."""
FOUR_CHOICES = ("longbook_choice_eng", "code_debug")

PAPER_TASKS = {"math_find": "Math.Find", "longbook_choice_eng": "En.MC", "number_string": "Retrieve.Number"}
"""The three tasks that the SharedLLM paper reports."""


def views(scores: Mapping[str, float]) -> list[View]:
    """The one view that a paper defines, where all its tasks are there. InfiniteBench has no official average."""
    if not all(task in scores for task in PAPER_TASKS):
        return []
    columns = {name: scores[task] for task, name in PAPER_TASKS.items()}
    return [View("infinitebench-sharedllm", "InfiniteBench, tasks of the paper", columns)]
