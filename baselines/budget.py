"""A budget of context tokens: what makes methods comparable that read a part of the context, or a shorter text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from baselines.dense import DenseSettings
from baselines.truncated import Truncated, TruncatedSettings, context_room
from evals.methods.base import MOST


class BudgetSettings(TruncatedSettings):
    """How much of the context is read."""

    budget: int | None = Field(
        None, ge=1, le=MOST, description="context tokens that are read; null: what the window has room for"
    )


@dataclass(kw_only=True)
class Budgeted(Truncated):
    """A method that decides which tokens take the place of a context that is too long."""

    settings_model: ClassVar[type[DenseSettings]] = BudgetSettings
    spreads: ClassVar[bool] = False  # most of these read with a second model

    settings: BudgetSettings

    def room(self, prefix: int, tail: int) -> int:
        """Context tokens that are read beside a prefix and a tail (query and answer)."""
        room = context_room(self.window, prefix, tail)
        return min(room, self.settings.budget or room)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of some ids; bytes of a character that is cut through become replacement characters."""
    return str(tokenizer.decode(list(ids)))
