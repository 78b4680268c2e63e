"""Aggregation (RULER section 3.3): common words in a numbered list, frequent coded words in a text."""

from __future__ import annotations

import math
import random
import string
from dataclasses import dataclass
from typing import ClassVar

from evals.tasks.common.generated import Family, Sample
from evals.tasks.ruler.templates import Revision, template
from evals.tasks.ruler.words import compound, letters, vocabulary

COMMON = 10
CODED_LETTERS = 6


@dataclass(frozen=True)
class CommonWords(Family):
    """Ten words appear often, all others seldom. size: different words. length: tokens of the cell.

    Since 2025 a space stands before the answer of the worked example.
    """

    family: ClassVar[str] = "cwe"
    new_tokens: ClassVar[int] = 120

    length: int
    revision: Revision = "2025-06"

    def smallest(self, index: int) -> int:
        return COMMON + 1

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        official = template("cwe", self.revision)
        short = self.length < 4096
        shown, shown_answers = _word_list(rng, 20, 3, 1) if short else _word_list(rng, 40, 10, 3)
        context, answers = _word_list(rng, size, 6, 1) if short else _word_list(rng, size, 30, 3)
        numbered = " ".join(f"{i}. {word}" for i, word in enumerate(shown_answers, 1))
        gap = "" if self.revision == "2024-12" else " "
        example = official.text.format(context=shown) + official.answer_prefix + gap + numbered + "\n"
        lead, question = official.after.split("Question: ")
        return Sample(
            before=example + official.before,
            context=context,
            lead=lead + "Question: ",
            question=question,
            answer_prefix=official.answer_prefix,
            answers=answers,
        )


def _word_list(rng: random.Random, size: int, often: int, seldom: int) -> tuple[str, list[str]]:
    """`1. word 2. word ...` of `size` different words, and the ten that appear `often` times.

    After the end of the word list (some 8,700 words, about 128K tokens) adjective-noun pairs follow, where the
    official code reads another dictionary.
    """
    known = vocabulary()
    drawn = rng.sample(known, min(size, len(known)))
    extra: dict[str, None] = {}
    while len(drawn) + len(extra) < size:
        extra[compound(rng)] = None
    drawn += extra
    common, seldom_words = drawn[:COMMON], drawn[COMMON:]
    listed = common * often + seldom_words * seldom
    rng.shuffle(listed)
    return " ".join(f"{i}. {word}" for i, word in enumerate(listed, 1)), common


@dataclass(frozen=True)
class FrequentWords(Family):
    """Coded words whose counts follow a zeta distribution with exponent 2; the most frequent one reads `...`.

    size: words in the text before rounding. length: tokens of the cell. The vocabulary has one coded word for every
    50 tokens of prompt, before 2025 for every 50 tokens of prompt and answer.
    """

    family: ClassVar[str] = "fwe"
    new_tokens: ClassVar[int] = 50

    length: int
    revision: Revision = "2025-06"

    def smallest(self, index: int) -> int:
        """From 75 words on, the counts of the fourth and the fifth word differ: the answer is unique."""
        return 75

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        official = template("fwe", self.revision)
        tokens = self.length if self.revision == "2024-12" else self.length - self.new_tokens
        coded = letters(rng, max(tokens // 50, 5), CODED_LETTERS, string.ascii_lowercase)
        ranked = ["...", *coded[1:]]
        text = [word for rank, word in enumerate(ranked, 1) for _ in range(zeta_count(size, rank))]
        rng.shuffle(text)
        lead, question = official.after.split("Question: ")
        return Sample(
            before=official.before,
            context=" ".join(text),
            lead=lead + "Question: ",
            question=question,
            answer_prefix=official.answer_prefix,
            answers=ranked[1:4],
        )


def zeta_count(size: int, rank: int) -> int:
    """How often the word of that rank appears: size / (zeta(2) rank^2), rounded down."""
    return int(size / (math.pi**2 / 6 * rank**2))
