"""Random directed graphs, and the two questions about them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

Edge = tuple[str, str]
NAME_DIGITS = 10
"""Hex digits of a node's name."""


def draw(rng: random.Random, edges: int) -> list[Edge]:
    """`edges` different edges, no loops, between nodes of which there are half as many (at least four).

    Raises ValueError for fewer than four edges: the number of nodes would not be determined.
    """
    if edges < 4:
        raise ValueError("a graph needs at least four edges")
    names: dict[str, None] = {}
    while len(names) < max(4, edges // 2):
        names[f"{rng.getrandbits(4 * NAME_DIGITS):0{NAME_DIGITS}x}"] = None
    nodes = list(names)
    found: dict[Edge, None] = {}
    while len(found) < edges:
        start, end = rng.choice(nodes), rng.choice(nodes)
        if start != end:
            found[start, end] = None
    return list(found)


def nodes_of(edges: Iterable[Edge]) -> list[str]:
    """Nodes that have an edge, in the order in which they are first named."""
    return list(dict.fromkeys(node for edge in edges for node in edge))


def parents(edges: Iterable[Edge]) -> dict[str, set[str]]:
    """The nodes with an edge to each node that has one."""
    found: dict[str, set[str]] = defaultdict(set)
    for start, end in edges:
        found[end].add(start)
    return dict(found)


def children(edges: Iterable[Edge]) -> dict[str, set[str]]:
    """The nodes to which each node has an edge, for those that have one."""
    return parents((end, start) for start, end in edges)


def at_depth(after: dict[str, set[str]], start: str, depth: int) -> set[str]:
    """Nodes whose shortest path from `start` has `depth` edges. after: `children`."""
    seen = level = {start}
    for _ in range(depth):
        level = {node for last in level for node in after.get(last, ())} - seen
        seen = seen | level
    return level
