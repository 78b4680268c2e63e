"""Variable tracking (RULER section 3.2): one chain of assignments in noise, after one worked example."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from evals.tasks.common.generated import Family, Sample
from evals.tasks.ruler.templates import Revision, template
from evals.tasks.ruler.words import letters

HOPS = 4
EXAMPLE_NOISE = 14
"""Noise sentences of the worked example: what the official budget of 500 tokens leaves with common tokenizers,
fixed so that the example is the same text length whatever the tokenizer."""


@dataclass(frozen=True)
class VariableTracking(Family):
    """The chain starts at a number; its five variables are the answer.

    Since 2025 every sentence and every link has a line of its own; before, spaces joined them.
    """

    family: ClassVar[str] = "vt"
    new_tokens: ClassVar[int] = 30

    revision: Revision = "2025-06"

    def smallest(self, index: int) -> int:
        return HOPS + 1

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        official = template("vt", self.revision)
        example = self._example(rng)
        names, value, context = self._chain(rng, size, name_length=5)
        lead, question = official.after.split("Question: ")
        return Sample(
            before=example + official.before,
            context=context,
            lead=lead + "Question: ",
            question=question.format(query=value),
            answer_prefix=official.answer_prefix.format(query=value, num_v=HOPS + 1),
            answers=names,
        )

    def _example(self, rng: random.Random) -> str:
        official = template("vt", self.revision)
        names, value, context = self._chain(rng, EXAMPLE_NOISE, name_length=3)
        text = (official.text + official.answer_prefix).format(context=context, query=value, num_v=HOPS + 1)
        return f"{text} {' '.join(names)}" + "\n" * (4 if self.revision == "2024-12" else 2)

    def _chain(self, rng: random.Random, noises: int, name_length: int) -> tuple[list[str], str, str]:
        """Variables, the number that they hold, and the text with the chain's links in order at random places."""
        names = letters(rng, HOPS + 1, name_length)
        value = str(rng.randint(10000, 99998))
        links = [f"VAR {names[0]} = {value}"]
        links += [f"VAR {new} = VAR {old} " for old, new in pairwise(names)]
        noise = template("vt", self.revision).snippets[0]
        lines = [noise + "\n" if self.revision == "2024-12" else noise] * noises
        for offset, place in enumerate(sorted(rng.sample(range(noises), len(links)))):
            lines.insert(place + offset, links[offset])
        joined = (" " if self.revision == "2024-12" else "\n").join(lines)
        return names, value, joined.replace(". \n", ".\n")
