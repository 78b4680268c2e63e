"""GraphWalks, official: the published prompts, of which each length has its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evals.tasks.base import Instance
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.graphwalks import rows
from evals.tasks.graphwalks.graph import nodes_of
from evals.tasks.graphwalks.scores import BEGUN
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.source import Source
from evals.tasks.settings.whole_rows import may_have, of_length

SPARE = 32
"""Tokens that a row leaves besides its answer."""


class Official(Source):
    """The published prompts that have the length."""

    settings: GraphWalksSettings

    def check_length(self, length: int | None) -> None:
        if length is not None:
            rows.locate(length, self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.data)

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        """Rows in file order. seed is not used: nothing is random."""
        return first(of_length(self._possible(builder, length), length), limit)

    def _possible(self, builder: PromptBuilder, length: int) -> Iterator[Instance]:
        """The rows without those that cannot have the length."""
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
                with errors_at(f"{file}, row {number}"):
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
                    holds=one_document(context),
                )
