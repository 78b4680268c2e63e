"""BABILong, generated: our own facts in the user's own text.

An instance depends on (task, facts, start, seed, length, index, tokenizer, texts) alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.errors import UserError
from evals.tasks.babilong.rows import SAMPLES
from evals.tasks.babilong.settings import BabilongSettings
from evals.tasks.babilong.stories import draw
from evals.tasks.base import Instance
from evals.tasks.common import documents
from evals.tasks.common.haystack import Haystack, hide, places, shared, window
from evals.tasks.common.prompt import PromptBuilder, assemble, fill
from evals.tasks.common.source import DataSource
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.settings.source import Source

LEAST = {"qa1": 1, "qa2": 2, "qa3": 3, "qa4": 2, "qa5": 2}
"""Fewest facts that a question can be asked about."""


@dataclass(frozen=True)
class Generated(Source):
    """task: name of the subset."""

    drawn = True
    made_to_length = True
    samples = SAMPLES

    task: str
    settings: BabilongSettings
    data: DataSource

    def check(self) -> None:
        documents.verify(self.data)

    def files(self) -> Sequence[Path]:
        return documents.files(self.data)

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        texts = shared(builder, self.data)
        for index in range(min(SAMPLES, limit or SAMPLES)):
            yield self._instance(builder, texts, length, seed, index)

    def _instance(self, builder: PromptBuilder, texts: Haystack, length: int, seed: int, index: int) -> Instance:
        asked = self.settings
        key = f"babilong {self.task}:{asked.facts}:{asked.start:g}:{seed}:{length}:{index}"
        rng = random.Random(key)
        count = None if asked.facts is None else max(asked.facts, LEAST[self.task])
        story = draw(rng, self.task, count)
        facts = [builder.encode(" " + fact, after=".") for fact in story.facts]
        template = asked.template(self.task)
        before, after = fill(template, question=story.question)
        begun = asked.begun
        if asked.cloze:
            begun = f"\nAnswer: {story.facts[story.support[-1]].partition(story.answer)[0].rstrip()}"
        frame = builder.frame(before, after, chat=asked.chat, question=story.question, answer=begun)
        room = length - len(frame) - asked.max_new_tokens - sum(map(len, facts))
        if room < 0:
            raise UserError(f"A length of {length} tokens cannot hold BABILong {self.task}: choose a larger --length.")
        noise = window(rng, texts, room, length)
        where = sorted(rng.choices(places(noise, texts.ends, asked.start, 100), k=len(facts)))
        hidden = hide(noise, facts, where)
        prompt = assemble(frame, hidden.ids, template=template)
        return Instance(
            id=str(index),
            prompt=prompt,
            max_new_tokens=asked.max_new_tokens,
            stop=stop_at_end(builder.tokenizer),
            thinking=asked.reading(builder, asked.chat),
            reference=story.answer,
            group=str(index),
            meta={
                "source": "generated",
                "question": story.question,
                "facts": len(facts),
                "support_percent": [round(100 * hidden.starts[i] / len(hidden.ids), 2) for i in story.support],
            },
        )
