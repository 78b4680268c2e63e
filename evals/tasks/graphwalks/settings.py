"""Settings of GraphWalks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from evals.tasks.settings.source import SourceSettings

DEPTH = 2


class GraphWalksSettings(SourceSettings):
    """What is asked of a graph."""

    depth: int = Field(DEPTH, ge=1, le=4, description="edges from the start to the nodes asked for, of generated bfs")
    max_new_tokens: int = Field(
        128,
        ge=1,
        description="answer budget, part of the length; an official row gets what its answer takes, if that is more",
    )
    chat: bool = Field(
        False,
        description="wrap the prompt in the tokenizer's chat template; the reply is then not begun for the model, "
        "which may reason before the last line",
    )

    added_later: ClassVar[tuple[str, ...]] = (*SourceSettings.added_later, "source")

    @model_validator(mode="after")
    def _consistent(self) -> GraphWalksSettings:
        if self.source == "official" and self.depth != DEPTH:
            raise ValueError("depth is a setting of source=generated: the official rows have theirs")
        return self
