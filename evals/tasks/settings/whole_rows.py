"""Published rows that are never cut: which of them belong to a --length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from evals.records.models import OVER_LENGTH
from evals.tasks.base import Instance
from evals.tasks.common.prompt import Prompt

FRAME_TOKENS = 1024
"""More than a chat template adds to a prompt."""


def refused_if_longer(made: Instance, length: int) -> Instance:
    """The instance, refused where prompt and answer take more tokens than the length: its row is not to be cut."""
    tokens = len(made.prompt) + made.max_new_tokens
    if tokens <= length:
        return made
    reason = f"Prompt and answer take {tokens} tokens, more than the length {length}."
    return replace(made, prompt=Prompt([], [], []), refused=reason, meta={**made.meta, OVER_LENGTH: tokens})


def of_length(made: Iterable[Instance], length: int) -> Iterator[Instance]:
    """Those whose prompt and answer take no more than the length, and more than half of it: of the lengths 4k, 8k,
    16k, ... a row belongs to one.
    """
    return (one for one in made if length < 2 * (len(one.prompt) + one.max_new_tokens) <= 2 * length)


def may_have(text: str, new_tokens: int, length: int) -> bool:
    """Whether `of_length` can keep a row, so that most are not tokenised: its characters are at most eight to a token,
    and its bytes at least one.
    """
    most = len(text.encode()) + FRAME_TOKENS + new_tokens
    return len(text) <= 8 * length and length < 2 * most
