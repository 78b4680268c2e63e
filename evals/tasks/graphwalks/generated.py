"""GraphWalks, generated: directed edges between hex names, the two questions, and the form of the answer.

An instance depends on (subset, depth, seed, length, index, tokenizer) alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from evals.tasks.base import Instance
from evals.tasks.common.generated import Family, Sample, fitted, in_full
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.graphwalks.graph import at_depth, children, draw, nodes_of, parents
from evals.tasks.graphwalks.scores import BEGUN, MARK
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.settings.source import GeneratedSource

MOST_NODES = 8
"""Largest answer: with its brackets it takes at most 110 characters, so it fits the default answer budget."""

INSTRUCTION = (
    "Below is a directed graph, one edge per line. `a -> b` is an edge from node a to node b: a is a parent of b, and "
    "b is at depth 1 from a.\n\n"
)
FORM = (
    f"\nThe last line of the answer lists the nodes, in any order, without node {{node}}, in this form: "
    f"{MARK} [node, node]\n"
)
QUESTIONS = {
    "parents": "Which nodes are parents of node {node}?",
    "bfs": "In a breadth-first search from node {node}, which nodes are at depth {depth} exactly?",
}


@dataclass(frozen=True)
class Walks(Family):
    """Graphs by their number of edges, each with a question that 1 to `MOST_NODES` nodes answer."""

    family: ClassVar[str] = "graphwalks"

    kind: str
    depth: int
    new_tokens: int  # type: ignore[misc]  # a setting here, a constant of the official families

    def smallest(self, index: int) -> int:
        return 4 * self.depth

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        while True:  # a small graph may have no node at the depth
            edges = draw(rng, size)
            nodes = nodes_of(edges)
            before, after = parents(edges), children(edges)
            for node in rng.sample(nodes, len(nodes)):
                answer = before.get(node, set()) if self.kind == "parents" else at_depth(after, node, self.depth)
                if 1 <= len(answer) <= MOST_NODES:
                    return Sample(
                        before=INSTRUCTION,
                        context="".join(f"{start} -> {end}\n" for start, end in edges),
                        lead="\n",
                        question=QUESTIONS[self.kind].format(node=node, depth=self.depth),
                        answer_prefix=FORM.format(node=node),
                        answers=sorted(answer),
                        meta={"edges": [len(edges)], "nodes": [len(nodes)]},
                    )


class Generated(GeneratedSource):
    """Graphs that fill the length."""

    settings: GraphWalksSettings

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        chat = self.settings.chat
        depth = self.settings.depth if self.subset == "bfs" else 1
        family = Walks(self.subset, depth, self.settings.max_new_tokens)
        key = f"graphwalks {self.subset}:{depth}:{seed}:{length}"
        build, count = in_full(builder, chat, BEGUN), self.count(limit)
        for index, (sample, prompt) in enumerate(fitted(family, build, key, length, count)):
            yield Instance(
                id=str(index),
                prompt=prompt,
                max_new_tokens=family.new_tokens,
                stop=stop_at_end(builder.tokenizer),
                thinking=self.settings.reading(builder, chat),
                reference=sample.answers,
                group=str(index),
                meta={"source": "generated", **{name: int(value) for name, (value,) in sample.meta.items()}},
            )
