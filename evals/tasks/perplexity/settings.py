"""One set of settings for all protocols of perplexity in use (docs/perplexity.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from evals.records.models import Control
from evals.tasks.base import TaskSettings
from evals.tasks.settings.commas import Commas


class PerplexitySettings(TaskSettings):
    """scored: targets at the end of a window. running: tokens after the context, targets included; at most half
    of the length, and at least one more than `scored`. context: the controls; `own` comes first.

    anchor: where windows end. `end`: at the end of the document, then `stride` tokens earlier, ..., so that all
    lengths score the same tokens. `start`: the first window begins with the document (CEPE, YaRN), so lengths
    score different tokens. A number: at that token, then `stride` tokens later, ...; windows that would begin
    before the document are left out. windows: how many of a document. min_tokens: shorter documents are left out
    (at least the length itself; give the longest length of a sweep to compare on the same documents).

    aggregate: means over windows, over documents (of their means), or over tokens. bos: before each `window`, or
    only where a window begins a `document`. dataset: a set of the hub instead of --data-dir or the embedded text.
    """

    scored: int = Field(256, ge=1)
    running: int = Field(2048, ge=1)
    context: Annotated[tuple[Control, ...], Commas] = ("own", "other", "none")
    anchor: int | Literal["end", "start"] = "end"
    stride: int = Field(16384, ge=1)
    windows: int = Field(1, ge=1)
    min_tokens: int = Field(0, ge=0)
    aggregate: Literal["window", "document", "token"] = "window"
    bos: Literal["window", "document"] = "window"
    dataset: str | None = None

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
