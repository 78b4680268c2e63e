"""NoLiMa, generated: our own associations, in the user's own text.

An instance depends on (hops, others, start, seed, length, index, tokenizer, texts) alone.
"""

from __future__ import annotations

import random

from evals.errors import UserError
from evals.tasks.base import Instance
from evals.tasks.common.haystack import Haystack, hide, places, window
from evals.tasks.common.prompt import assemble
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.nolima.associations import CONTENT, draw
from evals.tasks.nolima.settings import NolimaSettings
from evals.tasks.settings.source import HiddenSource

INSTRUCTION = "Some sentences about people are hidden in the following text.\n\n"
FORM = "\nAnswer with the name of the character alone."
BEGUN = "\nAnswer: The name of the character is"
"""Begins the answer of a model without a chat template."""


class Generated(HiddenSource):
    """Needles with our own associations."""

    settings: NolimaSettings

    def instance(self, builder: PromptBuilder, texts: Haystack, length: int, seed: int, index: int) -> Instance:
        asked = self.settings
        rng = random.Random(f"nolima {self.subset}:{asked.others}:{asked.start:g}:{seed}:{length}:{index}")
        around = window(rng, texts, length, length)  # a little too long; what is used of it is cut below
        words = CONTENT.findall(str(builder.tokenizer.decode(around)).lower())
        association, name, others = draw(rng, self.subset, asked.others, words)
        question = association.question(self.subset)
        told = [association.needle(name), *(other.needle(whose) for other, whose in others)]
        needles = [builder.encode(" " + text, after=".") for text in told]
        after = f"\n\nQuestion: {question}{FORM}"
        begun = "" if asked.chat else BEGUN
        frame = builder.frame(INSTRUCTION, after, chat=asked.chat, question=question, answer=begun)
        room = length - len(frame) - asked.answer_tokens - sum(map(len, needles))
        if room < 0:
            raise UserError(f"A length of {length} tokens cannot hold NoLiMa: choose a larger --length.")
        noise = around[:room]
        where = sorted(rng.choices(places(noise, texts.ends, asked.start, 100), k=len(needles)))
        turn = rng.sample(range(len(needles)), len(needles))
        hidden = hide(noise, [needles[i] for i in turn], where)
        begin = hidden.starts[turn.index(0)]
        prompt = assemble(frame, hidden.ids, evidence=(begin, begin + len(needles[0])))
        return Instance(
            id=str(index),
            prompt=prompt,
            max_new_tokens=asked.answer_tokens,
            stop=stop_at_end(builder.tokenizer),
            thinking=asked.reading(builder, asked.chat),
            reference=name,
            group=str(index),
            meta={
                "source": "generated",
                "question": question,
                "needle": told[0],
                "others": [whose for _, whose in others],
                "depth_percent": round(100 * begin / len(hidden.ids), 2),
            },
        )
