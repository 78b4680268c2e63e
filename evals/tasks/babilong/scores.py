"""The published score: babilong/metrics.py of github.com/booydar/babilong (7a6efee)."""

from __future__ import annotations

from collections.abc import Sequence

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")
ITEMS = ("apple", "football", "milk")
LABELS: dict[str, tuple[str, ...]] = {
    "qa1": PLACES,
    "qa2": PLACES,
    "qa3": PLACES,
    "qa4": PLACES,
    "qa5": (*GIVERS, *ITEMS),
}
"""The possible answers of each task."""
ENDS = (".", "<context>", "<example>")
"""What ends an answer. (The published code also splits at "Question", after it has lowered the case: that never
matches, and is left out.)"""


def score(prediction: str, target: str, question: str, labels: Sequence[str]) -> float:
    """1 where the target is the only label in the first sentence of the prediction, whatever the case; else 0.

    Labels that the question names do not count.
    """
    text = prediction.lower()
    for end in ENDS:
        text = text.split(end)[0]
    named = {label.lower() for label in labels if label.lower() in text}
    return float(named - _asked(question, labels) == {target.lower()})


def chance(target: str, question: str, labels: Sequence[str]) -> float:
    """The expected score of a label drawn from those of the target's kind (place, person or item) that the question
    does not name.
    """
    kinds = [[name.lower() for name in kind] for kind in (PLACES, GIVERS, ITEMS)]
    kind = next(kind for kind in kinds if target.lower() in kind)
    return 1 / len(set(kind) - _asked(question, labels))


def _asked(question: str, labels: Sequence[str]) -> set[str]:
    return {label.lower() for label in labels if label.lower() in question.lower()}
