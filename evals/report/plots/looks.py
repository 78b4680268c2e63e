"""How each method looks: the same colour, marker and dashes in every figure of every run."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"),
    *("#882255", "#332288", "#999933", "#44AA99", "#AA4499", "#117733", "#CC6677", "#661100"),
)
"""Okabe and Ito's palette, distinct under every common form of colour blindness; then Paul Tol's `muted`."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d", "8", "H")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (7, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a model."""

    colour: str
    marker: str
    dashes: Any


def _look(colour: int, marker: str, dashes: int) -> Look:
    return Look(COLOURS[colour], marker, DASHES[dashes])


FAMILIES = {
    "sharedllm": _look(0, "o", 0),
    "sharedllm-paper": _look(5, "P", 5),
    "full": _look(1, "s", 1),
    "truncated": _look(2, "^", 2),
    "streamingllm": _look(3, "D", 3),
    "yarn": _look(4, "v", 4),
    "beacon": _look(6, "X", 0),
    "cepe": _look(9, "<", 2),
    "longllama": _look(10, ">", 3),
    "retrieval": _look(11, "p", 1),
    "retrieval-embedding": _look(13, "*", 3),
    "snapkv": _look(7, "h", 0),
    "kvzip": _look(8, "d", 2),
    "kvpress": _look(12, "8", 5),
    "llmlingua": _look(14, "H", 4),
    "llmlingua2": _look(15, "H", 5),
    "linear": _look(15, "v", 1),
    "ntk": _look(14, "v", 2),
}
"""By preset family: the name of a preset without the sizes in it."""
METHODS = {"streaming_llm": "streamingllm", "activation_beacon": "beacon"}
"""Families of methods whose name in the registry is another."""
SIZE = re.compile(r"(?:^|-)\d[\d.]*[bkm]?(?=-|$)")


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """The look of each model from its name and method.

    The first model of a family has the family's look. Others of it keep the colour as long as the markers last. A model
    of no family has a look that its name decides. No two models of a run look the same while there are looks left.
    """
    found: dict[str, Look] = {}
    for name, method in methods.items():
        start = zlib.crc32(name.encode())
        known = FAMILIES.get(family(name, method))
        wanted = [known] if known else []
        wanted += (
            [Look(known.colour, m, d) for m, d in zip(MARKERS, [*DASHES[1:], *DASHES, *DASHES], strict=False)]
            if known
            else []
        )
        wanted += [
            Look(COLOURS[(start + i) % len(COLOURS)], MARKERS[(start + i) % len(MARKERS)], DASHES[i % len(DASHES)])
            for i in range(len(COLOURS) * len(MARKERS))
        ]
        taken = {(look.colour, look.marker) for look in found.values()}
        found[name] = next((look for look in wanted if (look.colour, look.marker) not in taken), wanted[0])
    return found


def family(name: str, method: str) -> str:
    """`snapkv` for snapkv-0.9-135m: the longest family that the name without sizes begins with, else the method's."""
    stem = SIZE.sub("", name)
    fits = [key for key in FAMILIES if stem == key or stem.startswith((f"{key}-", f"{key} "))]
    return max(fits, key=len) if fits else METHODS.get(method, method)
