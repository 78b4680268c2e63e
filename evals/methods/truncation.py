"""What stays of a context that is too long."""

from __future__ import annotations

from typing import Literal

Side = Literal["middle", "left", "right"]
"""Which part of a context goes when it is too long."""


def kept_ends(tokens: int, room: int, side: Side, *, before: int = 0, after: int = 0) -> tuple[int, int]:
    """How many of a context's `tokens` stay at its start and at its end so that at most `room` are left.

    left and right cut that end. middle keeps the first and last half of the whole prompt, which `before` and
    `after` more tokens surround: the rule of LongBench (pred.py) and InfiniteBench (`ids[:n // 2] +
    ids[-(n // 2):]`, so an odd budget loses one token), except that only context tokens ever go.
    """
    if tokens <= room:
        return tokens, 0
    if side == "left":
        return 0, room
    if side == "right":
        return room, 0
    half = (before + room + after) // 2
    head = min(max(half - before, 0), room)
    tail = min(max(half - after, 0), room - head)
    return (head, tail) if head + tail else (room, 0)  # an odd budget's lost token must not be the only one
