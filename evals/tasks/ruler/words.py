"""English words for keys and word lists, from the package `wonderwords`, as the official generators use them."""

from __future__ import annotations

import random
import string
import uuid
from functools import cache

from evals.errors import UserError


@cache
def words(category: str) -> tuple[str, ...]:
    """The sorted words of `noun`, `adjective` or `verb`. Raises UserError where wonderwords is missing."""
    try:
        from wonderwords import RandomWord  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise UserError("RULER draws its words from the package wonderwords: pip install wonderwords.") from error
    return tuple(sorted(set(RandomWord().filter(include_categories=[category]))))


@cache
def vocabulary() -> tuple[str, ...]:
    """All nouns, adjectives and verbs, sorted, each once."""
    return tuple(sorted({word for category in ("noun", "adjective", "verb") for word in words(category)}))


def compound(rng: random.Random) -> str:
    """`adjective-noun`, uniform over all pairs."""
    return f"{rng.choice(words('adjective'))}-{rng.choice(words('noun'))}"


def number(rng: random.Random) -> str:
    """Seven digits, the first of them not 0."""
    return str(rng.randint(10**6, 10**7 - 1))


def random_uuid(rng: random.Random) -> str:
    """A random UUID of version 4."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def letters(rng: random.Random, count: int, length: int, alphabet: str = string.ascii_uppercase) -> list[str]:
    """`count` different strings of `length` letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(alphabet, k=length))] = None
    return list(found)
