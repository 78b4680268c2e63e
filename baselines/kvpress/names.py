"""How a press is written in settings, and which presses cannot take part."""

from __future__ import annotations

from evals.errors import UnfitError, unknown
from evals.packages import version

DECODES = "it compresses while an answer is generated, so a score would depend on how the answer is cut into forwards"
FETCHES = "it fetches parameters by the name of the base, made for a few bases and pinned to no version"
REFUSED = {
    "cam": DECODES,
    "compressionratiodecoding": DECODES,
    "decoding": DECODES,
    "prefilldecoding": DECODES,
    "finch": "it compresses context and question as one text, with a token between them that the vocabulary lacks",
    "duoattention": FETCHES,
    "fastkvzip": FETCHES,
    "kvzap": FETCHES,
    "lukv": FETCHES,
    "qfilter": FETCHES,
    "restorekv": FETCHES,
}
"""Presses that cannot take part, and why."""
MASKING = ("adakv", "criticaladakv", "dms", "kvgrad", "kvzip")
"""Presses that hide entries, each head its own, and keep their bytes."""
ALONE = (*MASKING, "keyrerotation", "kvcompose")
"""Presses that do not stand in a chain: those after them would not know what was hidden, or where tokens stand."""

Chain = list[list[str]]
"""Presses in turn; each is a list of names, every one wrapping the next."""


def parse(expression: str) -> Chain:
    """`a:b+c` -> [[a, b], [c]], in plain spelling: lower case, without `_`, `-` and a final `press`."""
    return [[_plain(name) for name in part.split(":")] for part in expression.split("+")]


def canonical(expression: str) -> str:
    """The expression in its one spelling. Raises UserError for a press that kvpress does not have, or that cannot take
    part. Where kvpress is not installed its names are not known, and none is refused."""
    chain = parse(expression)
    for name in (name for nest in chain for name in nest):
        _check(name)
    for nest in chain:
        if len(chain) > 1 and (alone := [name for name in nest if name in ALONE]):
            raise UnfitError(f"{alone[0]} does not stand in a chain of presses: use it without +.")
        if inner := [name for name in nest[1:] if name in MASKING]:
            raise UnfitError(f"{inner[0]} masks entries, so no press wraps it: write it first.")
    return "+".join(":".join(nest) for nest in chain)


def _check(name: str) -> None:
    if name in REFUSED:
        raise UnfitError(f"{name} cannot take part: {REFUSED[name]}; choose another press.")
    if version("kvpress") is not None:
        from baselines.kvpress.library import press_classes  # a dry run without kvpress does without

        if name not in press_classes():
            raise unknown("press", name, press_classes().keys() - REFUSED.keys())


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").removesuffix("press")
