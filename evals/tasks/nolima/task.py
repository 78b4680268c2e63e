"""NoLiMa (Modarressi et al. 2025, arXiv:2502.05167): needle and question share no word, only an association.

`source=generated` (the default): our own associations, in the user's own text. `source=official`: the published
needles, books and prompts. The score is the published one in both: the answer contains the character's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evals.tasks.base import Instance, Output
from evals.tasks.nolima.generated import Generated
from evals.tasks.nolima.official import Official
from evals.tasks.nolima.settings import NolimaSettings
from evals.tasks.settings.source import SourcedTask


class Nolima(SourcedTask):
    """Questions over one or two hops; `direct` ones repeat the needle's words, as a control."""

    settings: NolimaSettings
    settings_model = NolimaSettings
    generated = Generated
    official = Official
    name: ClassVar[str] = "nolima"
    subsets: ClassVar[Sequence[str]] = ("onehop", "twohop", "direct")
    lengths: ClassVar[Sequence[int]] = (1024, 2048, 4096, 8192, 16384, 32768)

    def answer_tokens(self) -> int:
        return self.settings.answer_tokens

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published, 1 where the answer contains the name. chance: that of a name out of those hidden.

        alone: 1 where it contains the name and none of the others that are hidden with it (generated).
        """
        others = instance.meta["others"]
        right = instance.reference in output.text
        if self.settings.source == "official":
            return {"score": float(right)}
        return {
            "score": float(right),
            "alone": float(right and not any(name in output.text for name in others)),
            "chance": 1 / (1 + len(others)) if others else 0.0,
        }
