"""Persons who walk between rooms and move things, and what one of them believes about one thing after every step."""

from __future__ import annotations

import random
from dataclasses import dataclass

PERSONS = ("Anselm", "Birgit", "Cosima", "Dagmar", "Emeka", "Farida", "Goran", "Hedda")
ROOMS = ("attic", "cellar", "kitchen", "library", "lounge", "pantry", "studio", "workshop")
SPOTS = ("shelf", "table", "chest", "bench", "rack", "stool")
THINGS = ("lantern", "ladle", "ribbon", "compass", "whistle", "teapot", "thimble", "candle")
NOWHERE = "nowhere"
UNKNOWN = "unknown"
BEFORE = (
    "Numbered steps about persons, rooms and things are hidden in the following text. Whoever is in the room of a "
    "thing sees where it lies; whoever is not keeps the belief they had, which is unknown at first. Whoever leaves the "
    "house is nowhere.\n\n"
)
FORM = "Write one line for every step, step 0 included, in order, each in this form:\n{example}"


@dataclass(frozen=True)
class Story:
    """told: a sentence a step, the first of them the beginning. rows: the state after each. question: asks for them."""

    told: list[str]
    rows: list[str]
    question: str
    example: str


def draw(rng: random.Random, steps: int, rooms: int) -> Story:
    """Two persons, two things, `rooms` rooms with two spots each, and `steps` steps after the beginning.

    A prefix of the steps does not depend on their number.
    """
    who, other = rng.sample(PERSONS, 2)
    thing, another = rng.sample(THINGS, 2)
    known = rng.sample(ROOMS, rooms)
    spots = {room: rng.sample(SPOTS, 2) for room in known}
    at: dict[str, str] = {person: rng.choice(known) for person in (who, other)}
    lies = {item: _spot(rng, spots, rng.choice(known)) for item in (thing, another)}
    believed = _seen(who, thing, at, lies, UNKNOWN)

    def state(number: int) -> str:
        return f"- Step {number}: {who} {at[who]}; {thing} {_name(lies[thing])}; belief {believed}"

    told = [
        f"Step 0: {who} is in the {at[who]}, {other} is in the {at[other]}, the {thing} is on the "
        f"{_name(lies[thing])}, and the {another} is on the {_name(lies[another])}."
    ]
    rows = [state(0)]
    for number in range(1, steps + 1):
        told.append(f"Step {number}: {_act(rng, (who, other), known, spots, at, lies)}")
        believed = _seen(who, thing, at, lies, believed)
        rows.append(state(number))
    question = (
        f"Where is {who}, where is the {thing}, and where does {who} believe the {thing} to be, after every step?"
    )
    return Story(told, rows, question, f"- Step 0: {who} ROOM; {thing} PLACE; belief PLACE")


def _act(
    rng: random.Random,
    persons: tuple[str, str],
    rooms: list[str],
    spots: dict[str, list[str]],
    at: dict[str, str],
    lies: dict[str, tuple[str, str]],
) -> str:
    """Changes the state; the sentence about it."""
    person = rng.choice(persons)
    here = at[person]
    near = [item for item, (room, _) in lies.items() if room == here]
    if near and rng.random() < 0.4:
        item = rng.choice(near)
        room = rng.choice(rooms)
        lies[item] = _spot(rng, spots, room)
        at[person] = room
        goes = "" if room == here else f"goes to the {room} and "
        return f"{person} {goes}puts the {item} on the {_name(lies[item])}."
    if here != NOWHERE and rng.random() < 0.2:
        at[person] = NOWHERE
        return f"{person} leaves the house."
    at[person] = rng.choice([room for room in rooms if room != here])
    return f"{person} goes to the {at[person]}."


def _spot(rng: random.Random, spots: dict[str, list[str]], room: str) -> tuple[str, str]:
    return room, rng.choice(spots[room])


def _name(place: tuple[str, str]) -> str:
    return " ".join(place)


def _seen(who: str, thing: str, at: dict[str, str], lies: dict[str, tuple[str, str]], believed: str) -> str:
    """What a person believes: the truth where the thing is in their room, else what they believed before."""
    return _name(lies[thing]) if lies[thing][0] == at[who] else believed
