"""Towns with one connection each, and the only route from one to another."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise, product

from evals.tasks.longproc.scores import CLOSE, OPEN

STARTS = (  # noqa: SIM905 - a list literal of quoted names is hard to read
    "Ald Arn Bar Bel Ber Bran Bren Cal Car Cor Dal Dar Del Dor Dun Eld Elm Fal Far Fen Gal Gar Glen Gor Hal Har Hel "
    "Hol Ilm Kel Ker Kor Lan Lim Lor Lun Mal Mar Mel Mor Nar Nel Nor Old Or Pel Por Quar Ral Rav Ros Sal Sel Sol Tal "
    "Tor Ul Val Ver Wal"
).split()
ENDS = (  # noqa: SIM905
    "bach beck berg borough bridge burn bury by church combe dale den field ford gate ham haven hill holm holt hurst "
    "keep ley low mere mill moor mouth port ridge shaw stead stock stone thorpe ton vale wick wood worth"
).split()
KINDS = ("", "New ", "Upper ", "Lower ", "Great ", "Little ", "North ", "South ")
TOWNS = [kind + start + end for kind, start, end in product(KINDS, STARTS, ENDS)]
WAYS = ("bus", "ferry", "plane", "train")
BEFORE = (
    "Each line below tells the one connection that leaves a town. Connections lead in one direction only, so there is "
    "one route at most from a town to another.\n\n"
)
FORM = (
    f"Write every step of it on a line of its own, in order, between {OPEN} and {CLOSE}, in this form:\n{OPEN}\n"
    f"From TOWN by WAY to TOWN.\nFrom TOWN by WAY to TOWN.\n{CLOSE}"
)


@dataclass(frozen=True)
class Map:
    """A route, and connections that lead elsewhere. lines: of the context, those of the route first. rows: of the
    answer, one for each line of the route.
    """

    rows: list[str]
    lines: list[str]
    question: str


def draw(rng: random.Random, steps: int, others: int) -> Map:
    """`steps` connections in a row between different towns, and `others` that leave other towns.

    Those may lead to towns of the route, but none of the route's leads away from it.
    """
    towns = rng.sample(TOWNS, min(steps + 1 + others, len(TOWNS)))
    route = [(a, rng.choice(WAYS), b) for a, b in pairwise(towns[: steps + 1])]
    elsewhere = [(a, rng.choice(WAYS), rng.choice(towns)) for a in towns[steps:]]
    return Map(
        [f"From {start} by {way} to {end}." for start, way, end in route],
        [f"A {way} leaves {start} for {end}.\n" for start, way, end in [*route, *elsewhere]],
        f"Which route leads from {towns[0]} to {towns[steps]}?",
    )
