"""One set of settings for all protocols of perplexity in use (docs/perplexity.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from evals.records.models import Control
from evals.tasks.base import TaskSettings
from evals.tasks.settings.commas import Commas


class PerplexitySettings(TaskSettings):
    """Which tokens of which documents are scored, after which context."""

    scored: int = Field(256, ge=1, description="targets at the end of a window")
    running: int = Field(
        2048,
        ge=1,
        description="tokens after the context, targets included; at most half of the length, and more than scored",
    )
    context: Annotated[tuple[Control, ...], Commas] = Field(
        ("own", "other", "none"), description="the text's own context, that of another document, none"
    )
    anchor: int | Literal["end", "start"] = Field(
        "end",
        description="where windows end. end: at the end of the document, then stride tokens earlier, ..., so that all "
        "lengths score the same tokens. start: the first window begins with the document (CEPE, YaRN), so lengths "
        "score different tokens. A number: at that token, then stride tokens later, ...; windows that would begin "
        "before the document are left out",
    )
    stride: int = Field(16384, ge=1, description="tokens between the ends of two windows")
    windows: int = Field(1, ge=1, description="how many of a document")
    min_tokens: int = Field(
        0,
        ge=0,
        description="shorter documents are left out (at least the length itself; give the longest length of a sweep to "
        "compare on the same documents)",
    )
    aggregate: Literal["window", "document", "token"] = Field(
        "window", description="means over windows, over documents (of their means), or over tokens"
    )
    bos: Literal["window", "document"] = Field(
        "window", description="before each window, or only where a window begins a document"
    )
    dataset: str | None = Field(None, description="a set of the hub instead of --data-dir or the embedded text")

    @field_validator("anchor")
    @classmethod
    def _inside_a_document(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("a number counts tokens from the start of a document: 1 or more")
        return value

    @field_validator("context")
    @classmethod
    def _own_first(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        if not value:
            raise ValueError("name at least one of own, other, none")
        return tuple(sorted(dict.fromkeys(value), key=lambda control: control != "own"))
