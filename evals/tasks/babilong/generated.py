"""BABILong, generated: our own facts in the user's own text.

An instance depends on (task, facts, start, seed, length, index, tokenizer, texts) alone.
"""

from __future__ import annotations

import random

from evals.errors import UserError
from evals.tasks.babilong.settings import BabilongSettings
from evals.tasks.babilong.stories import draw
from evals.tasks.base import Instance
from evals.tasks.common.haystack import Haystack, hide, places, window
from evals.tasks.common.prompt import assemble
from evals.tasks.common.prompt_builder import PromptBuilder, fill
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.settings.source import HiddenSource

LEAST = {"qa1": 1, "qa2": 2, "qa3": 3, "qa4": 2, "qa5": 2}
"""Fewest facts that a question can be asked about."""


class Generated(HiddenSource):
    """Our own facts and questions."""

    settings: BabilongSettings

    def instance(self, builder: PromptBuilder, texts: Haystack, length: int, seed: int, index: int) -> Instance:
        asked = self.settings
        key = f"babilong {self.subset}:{asked.facts}:{asked.start:g}:{seed}:{length}:{index}"
        rng = random.Random(key)
        count = None if asked.facts is None else max(asked.facts, LEAST[self.subset])
        story = draw(rng, self.subset, count)
        facts = [builder.encode(" " + fact, after=".") for fact in story.facts]
        template = asked.template(self.subset)
        before, after = fill(template, question=story.question)
        begun = asked.begun
        if asked.cloze:
            begun = f"\nAnswer: {story.facts[story.support[-1]].partition(story.answer)[0].rstrip()}"
        frame = builder.frame(before, after, chat=asked.chat, question=story.question, answer=begun)
        room = length - len(frame) - asked.max_new_tokens - sum(map(len, facts))
        if room < 0:
            raise UserError(
                f"A length of {length} tokens cannot hold BABILong {self.subset}: choose a larger --length."
            )
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
