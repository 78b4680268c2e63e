"""Requests and short texts that answer them, from word lists: many differ in a few words only."""

from __future__ import annotations

import random

FORMS = ("poem", "riddle", "speech", "blog post", "news item", "short scene", "song", "letter")
TOPICS = (  # noqa: SIM905 - a list literal of quoted names is hard to read
    "tapirs rivers clocks bridges lemons violins deserts kites lanterns harbours foxes candles maps orchards glaciers "
    "trains wells mirrors owls gardens storms ladders wolves bells"
).split()
ADJECTIVES = "quiet golden ancient bitter gentle crooked hollow silver patient broken distant bright".split()  # noqa: SIM905
PLACES = "valley market tower meadow station library island cellar forest courtyard mill chapel".split()  # noqa: SIM905
VERBS = "wait sing vanish return whisper gather tremble wander sleep rise listen change".split()  # noqa: SIM905
SENTENCES = (
    "In the {adjective} {place}, the {topic} {verb}.",
    "Nobody knows why {topic} {verb} near the {place}.",
    "Some {adjective} {topic} still {verb} at night.",
    "Beyond the {place}, {adjective} {topic} {verb} again.",
)


def text(rng: random.Random, topic: str) -> str:
    """Three different sentences about a topic."""
    return " ".join(
        sentence.format(topic=topic, adjective=rng.choice(ADJECTIVES), place=rng.choice(PLACES), verb=rng.choice(VERBS))
        for sentence in rng.sample(SENTENCES, 3)
    )


def alike(rng: random.Random, topic: str, count: int) -> list[str]:
    """`count` different texts about a topic."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[text(rng, topic)] = None
    return list(found)
