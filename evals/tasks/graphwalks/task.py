"""GraphWalks: walks over a graph that is given as a list of edges (openai/graphwalks on the hub, 2025).

`source=generated` (the default) keeps directed edges between hex names, the two questions, the form of the answer and
the score. Graphs, wording and lengths are generated here, so scores must not stand beside those of the published
prompts. An instance depends on (subset, depth, seed, length, index, tokenizer) alone. `source=official`: the published
prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.generated import Family, Sample, fitted, in_full
from evals.tasks.common.prompt import PromptBuilder
from evals.tasks.common.rows import first, naming
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.graphwalks import rows
from evals.tasks.graphwalks.graph import at_depth, children, draw, nodes_of, parents
from evals.tasks.graphwalks.scores import MARK, parse, set_f1
from evals.tasks.settings.chat import ChatSettings
from evals.tasks.settings.controls import named
from evals.tasks.settings.whole_rows import may_have, of_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
MOST_NODES = 8
"""Largest answer: with its brackets it takes at most 110 characters, so it fits the default answer budget."""

DEPTH = 2
SPARE = 32
"""Tokens that an official row leaves besides its answer."""

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
BEGUN = f"{MARK} ["
"""Begins the answer of a model without a chat template."""


class GraphWalksSettings(ChatSettings):
    """source: `generated` graphs, or the `official` prompts. depth: edges from the start to the nodes asked for, of
    generated `bfs`. max_new_tokens: answer budget, part of the length; an official row gets what its answer takes, if
    that is more. chat: wrap the prompt in the tokenizer's chat template; the reply is then not begun for the model,
    which may reason before the last line.
    """

    source: Literal["generated", "official"] = "generated"
    depth: int = Field(DEPTH, ge=1, le=4)
    max_new_tokens: int = Field(128, ge=1)
    chat: bool = False

    added_later: ClassVar[tuple[str, ...]] = (*ChatSettings.added_later, "source")

    @model_validator(mode="after")
    def _consistent(self) -> GraphWalksSettings:
        if self.source == "official" and self.depth != DEPTH:
            raise ValueError("depth is a setting of source=generated: the official rows have theirs")
        return self


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


class GraphWalks(Task):
    """Parents of a node, or the nodes at a depth from it."""

    settings: GraphWalksSettings
    settings_model = GraphWalksSettings
    name: ClassVar[str] = "graphwalks"
    metric: ClassVar[str] = "f1"
    subsets: ClassVar[Sequence[str]] = tuple(QUESTIONS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    def check_length(self, length: int | None) -> None:
        if self.settings.source == "official" and length is not None:
            rows.locate(length, self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.data) if self.settings.source == "official" else []

    @property
    def drawn(self) -> bool:
        return self.settings.source == "generated"

    def made_to(self, length: int) -> bool:
        return self.settings.source == "generated"

    def sample_count(self) -> int | None:
        return SAMPLES if self.settings.source == "generated" else None

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of GraphWalks always has a length"
        builder = self.settings.builder(tokenizer)
        if self.settings.source == "official":
            return first(of_length(self._official(builder, length), length), limit)
        return self._generated(builder, length, min(SAMPLES, limit or SAMPLES), seed)

    def _generated(self, builder: PromptBuilder, length: int, count: int, seed: int) -> Iterator[Instance]:
        kind, chat = self.subset or "bfs", self.settings.chat
        depth = self.settings.depth if kind == "bfs" else 1
        family = Walks(kind, depth, self.settings.max_new_tokens)
        key = f"graphwalks {kind}:{depth}:{seed}:{length}"
        for index, (sample, prompt) in enumerate(fitted(family, in_full(builder, chat, BEGUN), key, length, count)):
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

    def _official(self, builder: PromptBuilder, length: int) -> Iterator[Instance]:
        """Published rows in file order; those that cannot have the length are left out."""
        chat = self.settings.chat
        for file in rows.locate(length, self.data):
            for number, row in rows.read(file):
                if row.problem_type != self.subset:
                    continue
                answer = builder.encode(f"{BEGUN}{', '.join(row.answer_nodes)}]")
                new_tokens = max(self.settings.max_new_tokens, len(answer) + SPARE)
                if not may_have(row.prompt, new_tokens, length):
                    continue
                before, context, after = row.parts
                begun = "" if chat else f"\n{BEGUN}"
                with naming(f"{file}, row {number}"):
                    prompt = builder.build(before, context, after, question=row.question, answer=begun, chat=chat)
                name = f"{number:04d}" if file.name == rows.SHORT else f"long-{number:04d}"
                yield Instance(
                    id=name,
                    prompt=prompt,
                    max_new_tokens=new_tokens,
                    stop=stop_at_end(builder.tokenizer),
                    thinking=self.settings.reading(builder, chat),
                    reference=row.answer_nodes,
                    group=name,
                    meta={"source": "official", "edges": len(row.edges), "nodes": len(nodes_of(row.edges))},
                    holds=named(context),
                )

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
