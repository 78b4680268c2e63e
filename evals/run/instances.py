"""The instances of cells, made once for all models of a run that have the same tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from evals.run.grid import Cell
from evals.run.samples import AuditError, answered
from evals.tasks.base import Instance
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.settings.controls import controlled
from evals.tasks.settings.seeds import seeded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOKENS = 64_000_000
"""Token ids kept for the models to come (half a gigabyte); what does not fit is made again for each of them."""


class Instances:
    """Building prompts takes as long as small models take to read them, and is the same for every model."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.kept: dict[Hashable, list[Instance]] = {}
        self.room = MOST_TOKENS

    def of(self, cell: Cell, tokenizer: PreTrainedTokenizerBase) -> list[Instance]:
        """The instances of a cell in the order of its task, each with its controls."""
        key = (cell.task.name, cell.length, cell.seed, *PromptBuilder.of(tokenizer).identity)
        if key not in self.kept:
            task = answered(cell)
            made = list(controlled(task, seeded(task, tokenizer, cell.length, self.limit, cell.seed)))
            _require_unique(made, cell)
            size = sum(len(i.prompt) + len(i.target or ()) for i in made)
            if size > self.room:
                return made
            self.room -= size
            self.kept[key] = made
        return self.kept[key]


def _require_unique(instances: Sequence[Instance], cell: Cell) -> None:
    """Raises AuditError where two instances of a cell have one id: only one of their records would count."""
    for name, times in Counter(instance.id for instance in instances).most_common(1):
        if times > 1:
            raise AuditError(f"{cell.task.name}: {times} samples have the id {name}; each needs one of its own.")
