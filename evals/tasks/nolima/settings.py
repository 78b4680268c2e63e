"""Settings of NoLiMa."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from evals.tasks.nolima.associations import TOPICS
from evals.tasks.settings.source import SourceSettings

NEW_TOKENS = {"generated": 16, "official": 192}
OTHERS = 3
MOST_OTHERS = min(len(topic.chains) for topic in TOPICS) - 1


class NolimaSettings(SourceSettings):
    """source: `generated` needles in your own text (--data-dir, else Python's own help), or the `official` ones.
    set: official needle set, `needle_set` or `needle_set_hard`; the subset `direct` has its own. others: generated
    needles of the same kind about other characters (0 to 7). start: percent of the text before the first generated
    needle. max_new_tokens: answer budget; not given: 16, officially 192. chat: wrap the prompt in the tokenizer's chat
    template.
    """

    set: Literal["needle_set", "needle_set_hard"] = "needle_set"
    others: int = Field(OTHERS, ge=0, le=MOST_OTHERS)
    start: float = Field(0, ge=0, le=100)
    max_new_tokens: int | None = Field(None, ge=1)
    chat: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> NolimaSettings:
        if self.source == "official" and (self.others != OTHERS or self.start):
            raise ValueError("others and start are settings of source=generated")
        if self.source == "generated" and self.set != "needle_set":
            raise ValueError("set names official needles: add source=official")
        return self

    @property
    def answer_tokens(self) -> int:
        """Answer budget."""
        return self.max_new_tokens or NEW_TOKENS[self.source]
