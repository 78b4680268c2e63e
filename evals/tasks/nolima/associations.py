"""Our own needles and questions: they share no content word, only something that is known about the world.

A chain has three links: what the needle names, what that implies (one hop), what that implies in turn (two hops).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NAMES = (  # noqa: SIM905 - a list literal of quoted names is hard to read
    "Amara Bruno Celia Dmitri Elif Farid Greta Hamid Ingrid Jovan Kaveh Leila Milos Nadia Oskar Priya Quentin Rosalind "
    "Stefan Tamsin Ulrike Viktor Wanda Yusuf Zofia Anselm Birgit Cosima Dagmar Emeka"
).split()
CONTENT = re.compile(r"[a-z\u00e0-\u00ff]+")
LINKS = {"direct": 0, "onehop": 1, "twohop": 2}
"""Which link of a chain a question names."""
STEM = 5
"""Letters by which two words are taken for forms of one."""
FUNCTION = (  # noqa: SIM905 - words that stand in any sentence
    "a about all an and are as at be by can did do does down each every for from has have he her him his how in into "
    "is it its may must near never not of off on one or other out over she should some than that the their them then "
    "there they this to too under up was were what when where which while who whom whose will with without you your "
    "character"
).split()


@dataclass(frozen=True)
class Topic:
    """Sentences with {name} and {0}, {1} or {2}, filled by the links of each chain."""

    needle: str
    direct: str
    onehop: str
    twohop: str
    chains: Sequence[tuple[str, str, str]]


TOPICS = (
    Topic(
        "Each Sunday morning {name} sells postcards in front of {0}.",
        "Which character sells postcards in front of {0}?",
        "Which character can be met in {1}?",
        "Which character can be met in {2}?",
        (
            ("the Eiffel Tower", "Paris", "France"),
            ("the Colosseum", "Rome", "Italy"),
            ("the Brandenburg Gate", "Berlin", "Germany"),
            ("Big Ben", "London", "England"),
            ("the Acropolis", "Athens", "Greece"),
            ("the Sagrada Familia", "Barcelona", "Spain"),
            ("Charles Bridge", "Prague", "the Czech Republic"),
            ("the Kremlin", "Moscow", "Russia"),
            ("the Hagia Sophia", "Istanbul", "Turkey"),
            ("the Golden Gate Bridge", "San Francisco", "California"),
            ("the Christ the Redeemer statue", "Rio de Janeiro", "Brazil"),
            ("the Burj Khalifa", "Dubai", "the United Arab Emirates"),
            ("the Petronas Towers", "Kuala Lumpur", "Malaysia"),
            ("the Taj Mahal", "Agra", "India"),
            ("the Manneken Pis", "Brussels", "Belgium"),
            ("the Little Mermaid", "Copenhagen", "Denmark"),
        ),
    ),
    Topic(
        "{name} never leaves the house without {0}.",
        "Which character never leaves the house without {0}?",
        "Which character is {1} by profession?",
        "Which character earns a living in {2}?",
        (
            ("a stethoscope", "a doctor", "a hospital"),
            ("a gavel", "a judge", "a courtroom"),
            ("a whisk and a rolling pin", "a baker", "a pastry shop"),
            ("a trowel and a spirit level", "a bricklayer", "the construction trade"),
            ("a pipette and a lab coat", "a chemist", "scientific research"),
            ("a tripod and a spare lens", "a photographer", "a portrait studio"),
            ("a hoe and a sack of seeds", "a farmer", "agriculture"),
            ("a razor and a strop", "a barber", "a hairdressing salon"),
            ("a lesson plan and a box of chalk", "a teacher", "a school"),
            ("a cockpit checklist", "an airline pilot", "aviation"),
            ("a wrench and a coil of copper pipe", "a plumber", "the bathroom business"),
            ("a thimble and a tape measure", "a tailor", "the fashion industry"),
        ),
    ),
    Topic(
        "{name} keeps {0} in the drawer beside the bed.",
        "Which character keeps {0} in the drawer beside the bed?",
        "Which character suffers from {1}?",
        "Which character had better avoid {2}?",
        (
            ("an insulin pen", "diabetes", "sugary drinks"),
            ("an inhaler", "asthma", "cigarette smoke"),
            ("antihistamine tablets", "hay fever", "flowering meadows"),
            ("beta blockers", "high blood pressure", "salty crisps"),
            ("antacids", "heartburn", "spicy meals"),
            ("motion patches", "seasickness", "ferry crossings"),
            ("sleeping pills", "insomnia", "strong coffee at night"),
            ("a pair of hearing aids", "deafness", "loud concerts"),
        ),
    ),
)


@dataclass(frozen=True)
class Association:
    """A topic, and one of its chains."""

    topic: Topic
    chain: tuple[str, str, str]

    def needle(self, name: str) -> str:
        """The sentence that is hidden."""
        return self.topic.needle.format(*self.chain, name=name)

    def question(self, hops: str) -> str:
        """hops: `direct`, `onehop` or `twohop`."""
        form: str = getattr(self.topic, hops)
        return form.format(*self.chain)


ASSOCIATIONS = tuple(Association(topic, chain) for topic in TOPICS for chain in topic.chains)


def stems(text: str) -> set[str]:
    """Content words of a text, each cut to `STEM` letters."""
    return {word[:STEM] for word in CONTENT.findall(text.lower()) if word not in FUNCTION}


def draw(
    rng: random.Random, hops: str, others: int, taken: Iterable[str]
) -> tuple[Association, str, list[tuple[Association, str]]]:
    """What is asked for and its name, and `others` of the same topic with theirs.

    taken: words of the text, in lower case. No name is one of them; nor is the question's key, where any such
    association is left.
    """
    used = set(taken)
    free = [a for a in ASSOCIATIONS if not stems(a.chain[LINKS[hops]]) & {word[:STEM] for word in used}]
    asked = rng.choice(free or ASSOCIATIONS)
    rest = [a for a in ASSOCIATIONS if a.topic is asked.topic and a != asked]
    names = [name for name in NAMES if name.lower() not in used]
    chosen = rng.sample(names if len(names) > others else NAMES, others + 1)
    return asked, chosen[0], list(zip(rng.sample(rest, others), chosen[1:], strict=True))
