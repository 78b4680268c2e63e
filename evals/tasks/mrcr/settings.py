"""Settings of MRCR."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from evals.tasks.settings.source import SourceSettings


class MrcrSettings(SourceSettings):
    """How a conversation is put."""

    chat: bool = Field(
        False,
        description="use the tokenizer's chat template, around a generated conversation as one message, around each "
        "message of an official one",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="answer budget of official rows; null: what the answer takes, and 32 more"
    )

    added_later: ClassVar[tuple[str, ...]] = (*SourceSettings.added_later, "source", "max_new_tokens")

    @model_validator(mode="after")
    def _consistent(self) -> MrcrSettings:
        if self.source == "generated" and self.max_new_tokens is not None:
            raise ValueError("max_new_tokens is a setting of source=official: generated answers have 200")
        return self
