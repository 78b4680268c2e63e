"""BABILong (Kuratov et al. 2024, arXiv:2406.10149): facts of a small world, scattered in a long text, and a question.

`source=generated` (the default): our own facts in the user's own text. `source=official`: the published rows. Prompts
(by hash) and score are the published ones in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evals.errors import UserError
from evals.tasks.babilong import scores
from evals.tasks.babilong.generated import Generated
from evals.tasks.babilong.official import Official
from evals.tasks.babilong.settings import BabilongSettings
from evals.tasks.babilong.stories import KINDS
from evals.tasks.base import Instance, Output
from evals.tasks.settings.source import SourcedTask


class Babilong(SourcedTask):
    """One of the tasks qa1 to qa5, whose mean is the published leaderboard."""

    settings: BabilongSettings
    settings_model = BabilongSettings
    generated = Generated
    official = Official
    name: ClassVar[str] = "babilong"
    subsets: ClassVar[Sequence[str]] = tuple(KINDS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    def check(self) -> None:
        if self.settings.cloze and self.source.subset != "qa1":
            raise UserError(
                "cloze is for babilong:qa1, where one fact ends with the answer: ask for that subset alone."
            )
        self.settings.template(self.source.subset)
        super().check()

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published. chance: that of a label of the right kind, drawn at random."""
        labels, question = scores.LABELS[self.source.subset], instance.meta["question"]
        return {
            "score": scores.score(output.text, instance.reference, question, labels),
            "chance": scores.chance(instance.reference, question, labels),
        }
