"""The facts that are hidden: how they are worded, and the numbers drawn for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

DIGITS = 7
CITIES = (  # noqa: SIM905 - a list literal of a hundred quoted names is hard to read
    "Aberdeen Accra Adelaide Almaty Antwerp Asuncion Athens Baku Bamako Belgrade Bergen Bilbao Bogota Bologna Bremen "
    "Brisbane Bucharest Cairo Calgary Cardiff Casablanca Dakar Dresden Dublin Durban Edmonton Florence Geneva Genoa "
    "Ghent Glasgow Graz Hamburg Hanoi Harare Havana Helsinki Hobart Istanbul Jakarta Kampala Karachi Krakow Kyoto "
    "Lagos Lahore Leipzig Lima Lisbon Ljubljana Luanda Lusaka Lyon Malaga Manila Maputo Marseille Medellin Montevideo "
    "Munich Nagoya Nairobi Nantes Naples Osaka Oslo Ottawa Palermo Perth Porto Prague Pretoria Quito Riga Rotterdam "
    "Salzburg Santiago Sapporo Seville Sofia Stockholm Sydney Tallinn Tbilisi Tirana Toronto Toulouse Trieste Tunis "
    "Turin Utrecht Valencia Venice Vienna Vilnius Warsaw Windhoek Yerevan Zagreb Zurich"
).split()
ITEMS = (  # noqa: SIM905
    "amber box|brass cabinet|bronze gate|cedar chest|copper vault|crystal case|ebony drawer|glass cupboard|granite "
    "cellar|green locker|iron safe|ivory casket|jade shrine|leather trunk|marble crypt|mirror room|north tower|oak "
    "wardrobe|old barn|painted shed|pine crate|red garage|silver coffer|south tower|steel container|stone archive|"
    "tin canister|velvet pouch|walnut desk|white pavilion|wooden hatch|yellow depot"
).split("|")


@dataclass(frozen=True)
class Wording:
    """How a fact is told and asked. {key} and {value} are filled in; stem begins the answer."""

    needle: str
    question: str
    stem: str
    keys: Sequence[str] = ()


TEMPLATES = {
    # The wording that a trained adapter may have seen; needle and question share most of their words.
    "city": Wording(
        "The magic number for {key} is {value}.",
        "What is the magic number for {key}?",
        " The magic number for {key} is",
        CITIES,
    ),
    # Only the key is shared between needle and question.
    "item": Wording(
        "To unlock the {key}, the guard types {value}.", "Which code opens the {key}?", " It is opened by", ITEMS
    ),
    "classic": Wording(
        "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.",
        "What is the best thing to do in San Francisco?",
        " The best thing to do in San Francisco is",
    ),
}
CLASSIC_ANSWER = "eat a sandwich and sit in Dolores Park on a sunny day"
NEW_TOKENS = {"city": 12, "item": 12, "classic": 32}


@dataclass(frozen=True)
class Fact:
    """A needle: its key, the number to find, and both as the sentence that is hidden."""

    key: str
    value: str
    sentence: str


def draw(template: str, needles: int, seed: int, length: int, depth: float, sample: int) -> list[Fact]:
    """Needles with different keys. Each cell of the grid has its own generator: none depends on another."""
    wording = TEMPLATES[template]
    if not wording.keys:
        return [Fact("", CLASSIC_ANSWER, wording.needle)]
    rng = random.Random(f"{template}/{seed}/{length}/{depth:g}/{sample}")
    facts = []
    for key in rng.sample(list(wording.keys), needles):
        value = str(rng.randrange(10 ** (DIGITS - 1), 10**DIGITS))
        facts.append(Fact(key, value, wording.needle.format(key=key, value=value)))
    return facts
