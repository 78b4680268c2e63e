"""Wordings and names of the synthetic needles that training uses.

Evaluation keeps names of its own, which training never draws, and one wording that does not occur here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import yaml

if TYPE_CHECKING:  # the names alone must not wait for transformers
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Template:
    """A sentence to hide, a question about it and the stem of the answer; `keys` says which names it takes, `share`
    how often it is drawn beside the others.

    The name stands before its number: the lower model is causal, so what it keeps of a number knows the words before.
    """

    needle: str
    question: str
    answer: str
    keys: str = "city"
    share: float = 1.0

    def sentence(self, key: str, value: str) -> str:
        """What is hidden."""
        return " " + self.needle.format(key=key, value=value)

    def query(self, key: str, value: str) -> tuple[str, str, str, str]:
        """The query as it grows: lead, question, answer stem, answer."""
        question = f"{LEAD} {self.question.format(key=key)}"
        query = f"{question}\nAnswer: {self.answer.format(key=key)}"
        return LEAD, question, query, f"{query} {value}."


LEAD = "\n\nQuestion:"

TEMPLATES = (
    Template(
        "The magic number for {key} is {value}.",
        "What is the magic number for {key}?",
        "The magic number for {key} is",
        share=12.0,
    ),
    Template(
        "One of the special magic numbers for {key} is: {value}.",
        "What is the special magic number for {key} mentioned in the text?",
        "The special magic number for {key} mentioned in the text is",
        keys="item",
    ),
    Template(
        "The access code of the {key} was set to {value}.",
        "Which access code does the {key} have?",
        "The access code of the {key} is",
        keys="item",
    ),
    Template(
        "Remember that the office in {key} can be reached under the number {value}.",
        "Under which number can the office in {key} be reached?",
        "The office in {key} can be reached under the number",
    ),
    Template(
        "The archive in {key} holds exactly {value} documents.",
        "How many documents does the archive in {key} hold?",
        "The number of documents in {key} is",
    ),
    Template(
        "Whoever wants to be put through to {key} has to dial {value}.",
        "What does one dial to reach {key}?",
        "To reach {key} one dials",
    ),
    Template(
        "On the plate of the {key} stands the inventory number {value}.",
        "What is the inventory number of the {key}?",
        "The inventory number of the {key} is",
        keys="item",
    ),
)

_NAMES = yaml.safe_load((resources.files("sharedllm.training") / "names.yaml").read_text(encoding="utf-8"))
CITIES: tuple[str, ...] = tuple(_NAMES["cities"].split())
ADJECTIVES: tuple[str, ...] = tuple(_NAMES["adjectives"].split())
NOUNS: tuple[str, ...] = tuple(_NAMES["nouns"].split())
SYLLABLES: tuple[str, ...] = tuple(_NAMES["syllables"].split())
HELD_OUT: frozenset[str] = frozenset(_NAMES["held_out"].split())
"""Names of the evaluation: in the vocabulary of any tokenizer there are some of them."""


def invented(rng: np.random.Generator) -> str:
    """A name of two or three syllables: names must be compared, as there are too many to know them."""
    return "".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=rng.integers(2, 4))).capitalize()


def capitalised(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The words of a vocabulary that are written like names, in alphabetical order, without the evaluation's.

    SmolLM2 has seven thousand. Some tokenizers have none.
    """
    found = (re.fullmatch("[\u0120\u2581]([A-Z][a-z]{2,})", token) for token in tokenizer.get_vocab())  # a space before
    return tuple(sorted({match[1] for match in found if match} - HELD_OUT))
