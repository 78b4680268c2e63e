"""Needles in a haystack: eight of the thirteen tasks (RULER section 3.1)."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from evals.tasks.common.generated import Family, Sample
from evals.tasks.ruler.templates import template
from evals.tasks.ruler.words import compound, number, random_uuid

DEPTHS = [round(step * 100 / 39) for step in range(40)]
"""Percent of the sentences of an essay before a needle; drawn without replacement."""

MOST_SPLIT = 8

Kind = Literal["words", "numbers", "uuids"]
DRAW = {"words": compound, "numbers": number, "uuids": random_uuid}


@dataclass(frozen=True)
class Niah(Family):
    """haystack: where the needles lie. key, value: kinds. keys, values, queries: how many.

    essay: the words of the essays, needed by the haystack of that name.
    """

    family: ClassVar[str] = "niah"
    new_tokens: ClassVar[int] = 128

    haystack: Literal["noise", "essay", "needle"]
    key: Kind = "words"
    value: Kind = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1
    essay: Sequence[str] = ()
    split: dict[int, list[str]] = field(default_factory=dict, compare=False, repr=False)
    """Sentences of the first words of the essays, by the number of words: all samples have few sizes."""

    def smallest(self, index: int) -> int:
        return self.keys * self.values

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        needle = template("niah").snippets[0]
        pairs = {DRAW[self.key](rng): [DRAW[self.value](rng) for _ in range(self.values)] for _ in range(self.keys)}
        needles = [
            needle.format(type_needle_v=self.value, key=key, value=value)
            for key, values in pairs.items()
            for value in values
        ]
        rng.shuffle(needles)
        context = self._in_essay(rng, size, needles) if self.haystack == "essay" else self._in_lines(rng, size, needles)
        queries = rng.sample(list(pairs), self.queries)
        answers = [value for key in queries for value in pairs[key]]
        before, question, answer_prefix = self._wording(queries)
        places = [round(100 * context.index(answer) / len(context), 1) for answer in answers]
        return Sample(before, context, "\n", question, answer_prefix, answers, {"depths": places})

    def _in_essay(self, rng: random.Random, size: int, needles: list[str]) -> str:
        sentences = self._sentences(size)
        cuts = sorted(int(len(sentences) * depth / 100) for depth in rng.sample(DEPTHS, len(needles)))
        parts = []
        for start, end, inserted in zip([0, *cuts], [*cuts, len(sentences)], [*needles, ""], strict=True):
            parts += [" ".join(sentences[start:end]), inserted]
        return " ".join(parts[:-1])

    def _sentences(self, size: int) -> list[str]:
        """Those of the first `size` words; the essays repeat when they end."""
        if size not in self.split:
            if len(self.split) >= MOST_SPLIT:
                self.split.clear()
            repeats = -(-size // len(self.essay))
            self.split[size] = split_sentences(" ".join((list(self.essay) * repeats)[:size]))
        return self.split[size]

    def _in_lines(self, rng: random.Random, size: int, needles: list[str]) -> str:
        needle, noise = template("niah").snippets
        if self.haystack == "noise":
            lines = [noise] * size
        else:
            lines = [
                needle.format(type_needle_v=self.value, key=DRAW[self.key](rng), value=DRAW[self.value](rng))
                for _ in range(size)
            ]
        for place, inserted in zip(sorted(rng.sample(range(size), len(needles)), reverse=True), needles, strict=True):
            lines.insert(place, inserted)
        return "\n".join(lines)

    def _wording(self, queries: list[str]) -> tuple[str, str, str]:
        """Instruction, question and answer prefix; in the singular where there is one answer."""
        official = template("niah")
        kind: str = self.value
        texts = [official.before, official.after.removeprefix("\n"), official.answer_prefix]
        if len(queries) * self.values == 1:
            kind = kind[:-1]
            for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is")):
                texts = [text.replace(plural, singular) for text in texts]
        listed = ", ".join(queries[:-1]) + ", and " + queries[-1] if len(queries) > 1 else queries[0]
        before, question, answer_prefix = (text.format(type_needle_v=kind, query=listed) for text in texts)
        return before, question, answer_prefix


def split_sentences(text: str) -> list[str]:
    """Sentences by punctuation and a capital letter after it.

    The official splitter (nltk's punkt) needs a download. The split only decides where needles may lie, so a
    fixed rule serves as well and is the same on every machine.
    """
    return re.split(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]?[A-Z])", text.strip())
