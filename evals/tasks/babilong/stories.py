"""Small worlds in the manner of bAbI (Weston et al. 2015): persons move, take, drop and give, and one thing is asked.

Every fact is a sentence. Names of places, persons and items are those that the published score knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from evals.tasks.babilong.scores import GIVERS, ITEMS, PLACES

PERSONS = ("Daniel", "John", "Mary", "Sandra")
MOVE = ("{who} went to the {place}.", "{who} moved to the {place}.", "{who} walked to the {place}.")
TAKE = ("{who} took the {item} there.", "{who} picked up the {item} there.", "{who} grabbed the {item} there.")
DROP = ("{who} dropped the {item} there.", "{who} put down the {item} there.", "{who} left the {item} there.")
GIVE = ("{who} gave the {item} to {to}.", "{who} handed the {item} to {to}.", "{who} passed the {item} to {to}.")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


@dataclass(frozen=True)
class Story:
    """Facts in their order, a question and its answer. support: indices of the facts that give the answer."""

    facts: list[str]
    question: str
    answer: str
    support: tuple[int, ...]


@dataclass
class World:
    """What is true after the facts told so far.

    at: where each person is. holder: who carries each item. trace: for each item that was taken, the known places
    where it was, in order, each with the indices of the facts that brought it there.
    """

    rng: random.Random
    persons: tuple[str, ...]
    facts: list[str] = field(default_factory=list)
    at: dict[str, tuple[str, int]] = field(default_factory=dict)
    holder: dict[str, tuple[str, int]] = field(default_factory=dict)
    trace: dict[str, list[tuple[str, tuple[int, ...]]]] = field(default_factory=dict)

    def tell(self, forms: tuple[str, ...], **words: str) -> int:
        """Adds a fact; its index."""
        self.facts.append(self.rng.choice(forms).format(**words))
        return len(self.facts) - 1

    def move(self) -> None:
        who = self.rng.choice(self.persons)
        place = self.rng.choice([p for p in PLACES if p != self._place(who)])
        index = self.tell(MOVE, who=who, place=place)
        self.at[who] = place, index
        for item, (holder, taken) in self.holder.items():
            if holder == who:
                self._seen(item, place, (taken, index))

    def take(self) -> bool:
        """Somebody takes an item that lies where they are, or of which nothing was told; whether anybody can."""
        can = [
            (who, item)
            for who in self.at
            for item in ITEMS
            if item not in self.holder and (item not in self.trace or self.trace[item][-1][0] == self._place(who))
        ]
        if not can:
            return False
        who, item = self.rng.choice(can)
        place, moved = self.at[who]
        taken = self.tell(TAKE, who=who, item=item)
        self.holder[item] = who, taken
        self._seen(item, place, (moved, taken))
        return True

    def drop(self) -> bool:
        """Somebody drops what they carry; whether anybody carries something."""
        if not self.holder:
            return False
        item = self.rng.choice(list(self.holder))
        who, _ = self.holder.pop(item)
        self.tell(DROP, who=who, item=item)
        return True

    def _place(self, who: str) -> str | None:
        return self.at[who][0] if who in self.at else None

    def _seen(self, item: str, place: str, because: tuple[int, ...]) -> None:
        path = self.trace.setdefault(item, [])
        if not path or path[-1][0] != place:
            path.append((place, because))


def moved(rng: random.Random, facts: int) -> Story | None:
    """qa1: where a person is."""
    world = World(rng, PERSONS)
    for _ in range(facts):
        world.move()
    who = rng.choice(list(world.at))
    place, index = world.at[who]
    return Story(world.facts, f"Where is {who}?", place, (index,))


def carried(rng: random.Random, facts: int) -> Story | None:
    """qa2: where an item is."""
    world = _lived(rng, facts)
    if not world.trace:
        return None
    item = rng.choice(list(world.trace))
    place, support = world.trace[item][-1]
    return Story(world.facts, f"Where is the {item}?", place, support)


def before(rng: random.Random, facts: int) -> Story | None:
    """qa3: where an item was before it came to a place, where it was once only."""
    world = _lived(rng, facts)
    asked = []
    for item, path in world.trace.items():
        places = [place for place, _ in path]
        asked += [(item, i) for i in range(1, len(path)) if places.count(places[i]) == 1]
    if not asked:
        return None
    item, i = rng.choice(asked)
    (place, support), (later, because) = world.trace[item][i - 1], world.trace[item][i]
    question = f"Where was the {item} before the {later}?"
    return Story(world.facts, question, place, tuple(sorted({*support, *because})))


def _lived(rng: random.Random, facts: int) -> World:
    world = World(rng, PERSONS)
    while len(world.facts) < facts:
        act = rng.random()
        if (act < 0.3 and world.take()) or (act > 0.9 and world.drop()):
            continue
        world.move()
    return world


def beside(rng: random.Random, facts: int) -> Story | None:
    """qa4: which of three places lies in a direction from another. Always two facts, in opposite directions."""
    first, middle, last = rng.sample(PLACES, 3)
    way = rng.choice(list(OPPOSITE))
    back = OPPOSITE[way]
    # first lies `way` of middle, and middle `way` of last
    told = [
        (f"The {first} is {way} of the {middle}.", f"What is {way} of the {middle}?", first),
        (f"The {last} is {back} of the {middle}.", f"What is the {middle} {way} of?", last),
    ]
    order = rng.sample(range(2), 2)
    asked = rng.randrange(2)
    return Story([told[i][0] for i in order], told[asked][1], told[asked][2], (order.index(asked),))


def given(rng: random.Random, facts: int) -> Story | None:
    """qa5: who gave what to whom, the last time."""
    world = World(rng, GIVERS)
    last: tuple[str, str, str, int] | None = None
    while len(world.facts) < facts:
        act = rng.random()
        if act < 0.35 and world.holder:
            item = rng.choice(list(world.holder))
            who, _ = world.holder[item]
            to = rng.choice([name for name in GIVERS if name != who])
            index = world.tell(GIVE, who=who, item=item, to=to)
            world.holder[item] = to, index
            last = who, item, to, index
        elif act < 0.6 and (free := [item for item in ITEMS if item not in world.holder]):
            who, item = rng.choice(GIVERS), rng.choice(free)
            world.holder[item] = who, world.tell(TAKE, who=who, item=item)
        elif act > 0.9 and world.drop():
            continue
        else:
            world.move()
    if last is None:
        return None
    who, item, to, index = last
    question, answer = rng.choice(
        [
            (f"Who gave the {item} to {to}?", who),
            (f"Who gave the {item}?", who),
            (f"Who did {who} give the {item} to?", to),
            (f"Who received the {item}?", to),
            (f"What did {who} give to {to}?", item),
        ]
    )
    return Story(world.facts, question, answer, (index,))


@dataclass(frozen=True)
class Kind:
    """tell: a story of so many facts, or None where this one has nothing to ask. facts: fewest and most, if drawn."""

    tell: Callable[[random.Random, int], Story | None]
    facts: tuple[int, int]


KINDS = {
    "qa1": Kind(moved, (2, 10)),
    "qa2": Kind(carried, (2, 20)),
    "qa3": Kind(before, (4, 32)),
    "qa4": Kind(beside, (2, 2)),
    "qa5": Kind(given, (2, 20)),
}
"""The published stories have 2 to 10, 2 to 68, 4 to 32, 2, and 2 to 126 facts."""


def draw(rng: random.Random, task: str, facts: int | None) -> Story:
    """A story of a task. facts: how many; None: as many as its kind has, at random."""
    kind = KINDS[task]
    count = rng.randint(*kind.facts) if facts is None else facts
    while True:
        if (story := kind.tell(rng, count)) is not None:
            return story
