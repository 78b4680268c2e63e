"""What the tasks of published benchmarks share: settings for chat and truncation, lengths of rows, errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from evals.errors import UserError
from evals.records.models import OVER_LENGTH
from evals.tasks.base import Instance
from evals.tasks.chat_settings import ChatSettings
from evals.tasks.common.fitting import explicit_budget
from evals.tasks.common.prompt import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FRAME_TOKENS = 1024
"""More than a chat template adds to a prompt."""


class OfficialSettings(ChatSettings):
    """chat: "official" wraps the prompt in the tokenizer's chat template, if it has one, where the official script
    does. max_prompt_tokens: truncation budget of the prompt, in place of the one that --length implies. overlength:
    what happens to a row whose prompt exceeds that budget: `truncate` cuts it by the official rule, `skip` does not
    ask it, `fail` ends the cell."""

    chat: Literal["official", "never", "always"] = "official"
    max_prompt_tokens: int | None = Field(None, ge=1)
    overlength: Literal["truncate", "skip", "fail"] = "truncate"

    added_later: ClassVar[tuple[str, ...]] = (*ChatSettings.added_later, "overlength")

    def wraps(self, tokenizer: PreTrainedTokenizerBase, officially: bool) -> bool:
        """Whether to apply the chat template. officially: whether the official script does for a chat model."""
        if self.chat == "official":
            return officially and bool(tokenizer.chat_template)
        return self.chat == "always"

    def prompt_budget(self, length: int | None, answer_tokens: int, task: str) -> int | None:
        """Tokens of a prompt: `max_prompt_tokens`, else what the length leaves besides the answer; None where nothing
        is cut. task: its name, for people. Raises UserError where the length leaves nothing.
        """
        if self.max_prompt_tokens is not None:
            return explicit_budget(length, self.max_prompt_tokens, answer_tokens)
        if length is None:
            return None
        if length <= answer_tokens:
            raise UserError(f"{task} may answer with {answer_tokens} tokens: choose a --length above that.")
        return length - answer_tokens

    def check_overlength(self, budget: int | None) -> None:
        """Raises UserError where rows are to be compared with a budget, and there is none."""
        if self.overlength != "truncate" and budget is None:
            raise UserError(
                f"overlength={self.overlength} compares rows with a length: add --length, or --set max_prompt_tokens=N."
            )

    def fitting(self, instance: Instance, budget: int | None, place: object) -> Instance:
        """The instance of a row, which is not asked where it is too long and `overlength` says so.

        budget: tokens of the prompt, None where nothing is cut. place: of the row (file and line).
        Raises UserError for a long row under `fail`, and where there is no budget to compare with.
        """
        self.check_overlength(budget)
        if self.overlength == "truncate" or budget is None:
            return instance
        tokens = instance.prompt.audit.uncut
        if tokens <= budget:
            return instance
        reason = f"{place}: the prompt has {tokens} tokens, its budget is {budget}"
        if self.overlength == "fail":
            raise UserError(f"{reason}: choose a larger --length, or overlength=skip or truncate.")
        return replace(instance, refused=f"{reason} (overlength=skip).", meta={**instance.meta, OVER_LENGTH: tokens})


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


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Puts the place of a row (file and line) in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
