"""Settings of benchmarks whose rows are cut by an official rule: chat template, budget, rows that exceed it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from evals.errors import UserError
from evals.records.models import OVER_LENGTH
from evals.tasks.base import Instance
from evals.tasks.common.fitting import explicit_budget
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OfficialSettings(ChatSettings):
    """Chat template and budget of a benchmark with an official script."""

    chat: Literal["official", "never", "always"] = Field(
        "official",
        description="when to wrap the prompt in the tokenizer's chat template; official: if it has one, where the "
        "official script does",
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="truncation budget of the prompt, in place of the one that --length implies"
    )
    overlength: Literal["truncate", "skip", "fail"] = Field(
        "truncate",
        description="what happens to a row whose prompt exceeds that budget: truncate cuts it by the official rule, "
        "skip does not ask it, fail ends the cell",
    )

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
