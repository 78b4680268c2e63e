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
    """Needles are hidden in your own text (--data-dir, else Python's own help)."""

    set: Literal["needle_set", "needle_set_hard"] = Field(
        "needle_set", description="official needles; the subset direct has its own"
    )
    others: int = Field(
        OTHERS, ge=0, le=MOST_OTHERS, description="generated needles of the same kind about other characters"
    )
    start: float = Field(0, ge=0, le=100, description="percent of the text before the first generated needle")
    max_new_tokens: int | None = Field(None, ge=1, description="answer budget; null: 16, officially 192")
    chat: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")

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
