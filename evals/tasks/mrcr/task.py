"""MRCR: one of several alike answers of a long conversation is repeated (openai/mrcr on the hub, 2025).

`source=generated` (the default) keeps 2, 4 or 8 answers to the same request, the random prefix and the score. Texts are
short and come from word lists, the conversation is plain text; scores must not stand beside those of the published
prompts, which `source=official` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evals.tasks.base import Instance, Output
from evals.tasks.mrcr.generated import NEW_TOKENS, SUBSETS, Generated
from evals.tasks.mrcr.official import Official
from evals.tasks.mrcr.scores import score
from evals.tasks.mrcr.settings import MrcrSettings
from evals.tasks.settings.source import SourcedTask

NEXT = "\n\nUser:"
"""Begins the next turn of a conversation in plain text, with which a base model goes on."""


class Mrcr(SourcedTask):
    """The n-th of several alike answers."""

    settings: MrcrSettings
    settings_model = MrcrSettings
    generated = Generated
    official = Official
    name: ClassVar[str] = "mrcr"
    subsets: ClassVar[Sequence[str]] = tuple(SUBSETS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens or NEW_TOKENS

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published, of the answer up to the next turn. chance: that of another alike text, on average."""
        text = output.text.partition(NEXT)[0].strip()
        return {
            "score": score(text, instance.reference, instance.meta["prefix"]),
            "chance": instance.meta["chance"],
        }
