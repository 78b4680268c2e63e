"""A named average over the subsets of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """The scores of one model by column, as a benchmark or a paper averages them.

    id: names the view in files and code, and never changes. title: for readers.
    """

    id: str
    title: str
    columns: Mapping[str, float]
