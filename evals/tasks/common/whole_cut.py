"""Cutting the middle out of a whole prompt, as the scripts of LongBench and InfiniteBench do.

The scripts do not know the context from the question: where one of the two is longer than half of the budget, they cut
into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.errors import UserError

Rule = Literal["even", "uneven"]
"""What is kept of the ids of a prompt that is longer than n. "even": the first and the last n // 2 (LongBench,
InfiniteBench's scripts for open models). "uneven": `ids[:n // 2] + ids[-n // 2:]`, one more at the end where n is odd
(LongBench v2, InfiniteBench's eval_utils.py)."""


@dataclass(frozen=True)
class Kept:
    """What is left of the three parts of a prompt, and how much of each was cut.

    question: span of the query that a search may look at; None if all of it was cut. cut_at: index in the context
    where the cut begins.
    """

    prefix: list[int]
    context: list[int]
    query: list[int]
    question: tuple[int, int] | None
    cut_prefix: int
    cut_context: int
    cut_query: int
    cut_at: int


def cut_middle(
    prefix: list[int],
    context: list[int],
    query: list[int],
    budget: int,
    rule: Rule,
    *,
    question: tuple[int, int] | None = None,
    wrapper: tuple[int, int] = (0, 0),
    bos: int = 0,
) -> Kept:
    """A prompt of more than `budget` ids, cut to it.

    wrapper: ids of a chat template at both ends, which count but are not cut: the scripts cut first and wrap then.
    bos: ids at the start of the prefix that are BOS. Every method reads a context, so where nothing is left of it,
    the rest of the prefix takes its place; the ids of the whole prompt stay the official ones.
    Raises UserError for a budget that leaves nothing to read.
    """
    room = budget - sum(wrapper)
    head, tail = wrapper[0] + room // 2, wrapper[1] + (room // 2 if rule == "even" else room - room // 2)
    total = len(prefix) + len(context) + len(query)
    start, end = len(prefix), len(prefix) + len(context)
    kept_prefix = _ends(prefix, head, total - tail)
    kept_context = _ends(context, head - start, total - tail - start)
    kept_query = _ends(query, head - end, total - tail - end)
    cut_prefix, cut_context = len(prefix) - len(kept_prefix), len(context) - len(kept_context)
    if not kept_context:
        first = max(bos, wrapper[0])
        kept_prefix, kept_context = kept_prefix[:first], kept_prefix[first:]
    if room < 2 or not kept_context:
        raise UserError(f"A budget of {budget} tokens leaves nothing of the prompt to read: choose a larger --length.")
    moved = None
    if question is not None:
        first, last = (len(_ends(query[:at], head - end, total - tail - end)) for at in question)
        moved = (first, last) if first < last else None
    at = min(max(head - start, 0), len(context))
    cut_query = len(query) - len(kept_query)
    return Kept(kept_prefix, kept_context, kept_query, moved, cut_prefix, cut_context, cut_query, at)


def _ends(part: list[int], head: int, tail: int) -> list[int]:
    """A part of the prompt without its ids from index `head` to `tail`, either of which may lie outside."""
    return part[: max(head, 0)] + part[max(tail, head, 0) :]
