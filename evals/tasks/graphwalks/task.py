"""GraphWalks: walks over a graph that is given as a list of edges (openai/graphwalks on the hub, 2025).

`source=generated` (the default) keeps directed edges between hex names, the two questions, the form of the answer and
the score. Graphs, wording and lengths are generated here, so scores must not stand beside those of the published
prompts, which `source=official` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evals.tasks.base import Instance, Output
from evals.tasks.graphwalks.generated import QUESTIONS, Generated
from evals.tasks.graphwalks.official import Official
from evals.tasks.graphwalks.scores import BEGUN, parse, set_f1
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.settings.source import SourcedTask


class GraphWalks(SourcedTask):
    """Parents of a node, or the nodes at a depth from it."""

    settings: GraphWalksSettings
    settings_model = GraphWalksSettings
    generated = Generated
    official = Official
    name: ClassVar[str] = "graphwalks"
    metric: ClassVar[str] = "f1"
    subsets: ClassVar[Sequence[str]] = tuple(QUESTIONS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """f1: of the sets. parsed: whether the last line has its form. chance: expected F1 of as many random nodes.

        Without a chat template, the first line is read: a base model goes on after the answer.
        """
        text = output.text if self.settings.chat else BEGUN + output.text.partition("\n")[0]
        nodes, wanted = parse(text), len(set(instance.reference))
        return {
            "f1": 0.0 if nodes is None else set_f1(nodes, instance.reference),
            "parsed": float(nodes is not None),
            "chance": wanted / (instance.meta["nodes"] - 1) if wanted else 1.0,
        }
