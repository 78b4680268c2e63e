"""A generated row, and what every generator of InfiniteBench shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from evals.tasks.infinitebench.labels import Label

OFFICIAL_LENGTH = 131072
"""Tokens of the published rows, by which official sizes are scaled."""


@dataclass(frozen=True)
class GeneratedRow:
    """A row as in the official files. evidence: part of the context that holds the answer. meta: for plots."""

    context: str
    input: str
    answer: Label
    evidence: str | None = None
    meta: dict[str, float] = field(default_factory=dict)
