"""MRCR, generated: 2, 4 or 8 answers to the same request among others, and the random prefix.

An instance depends on (needles, seed, length, index, tokenizer) alone.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from evals.tasks.base import Instance
from evals.tasks.common.generated import Family, Sample, fitted, in_full
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.mrcr.scores import score
from evals.tasks.mrcr.settings import MrcrSettings
from evals.tasks.mrcr.writer import FORMS, TOPICS, alike, text
from evals.tasks.settings.source import GeneratedSource

PREFIX_CHARS = 10
NEW_TOKENS = 200
"""Answer budget: one token per character of prefix and longest text is enough."""
SUBSETS = {"2needle": 2, "4needle": 4, "8needle": 8}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True)
class Conversation(Family):
    """Conversations by their number of other requests."""

    family: ClassVar[str] = "mrcr"
    new_tokens: ClassVar[int] = NEW_TOKENS

    needles: int

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        form, topic = asked = rng.choice(FORMS), rng.choice(TOPICS)
        needles = alike(rng, topic, self.needles)
        others = [(f, t) for f in FORMS for t in TOPICS if (f, t) != asked]
        turns = [(request, text(rng, request[1])) for request in rng.choices(others, k=size)]
        for offset, place in enumerate(sorted(rng.choices(range(size + 1), k=self.needles))):
            turns.insert(place + offset, (asked, needles[offset]))
        number = rng.randrange(self.needles)
        prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=PREFIX_CHARS))
        return Sample(
            before="Below is a conversation.\n\n",
            context="".join(f"User: Write a {f} about {t}.\n\nAssistant: {written}\n\n" for (f, t), written in turns),
            lead="User: ",
            question=f"Write {prefix} and directly after it repeat the {ORDINALS[number]} {form} about {topic}.",
            answer_prefix=" Write nothing else.\n\n",
            answers=[prefix, prefix + needles[number], *(n for n in needles if n != needles[number])],
            meta={"number": [number + 1], "turns": [len(turns)]},
        )


class Generated(GeneratedSource):
    """Conversations that fill the length."""

    settings: MrcrSettings

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        chat = self.settings.chat
        family, build = Conversation(SUBSETS[self.subset]), in_full(builder, chat, "Assistant:")
        key, count = f"mrcr {self.subset}:{seed}:{length}", self.count(limit)
        for index, (sample, prompt) in enumerate(fitted(family, build, key, length, count)):
            prefix, answer, *others = sample.answers
            yield Instance(
                id=str(index),
                prompt=prompt,
                max_new_tokens=NEW_TOKENS,
                stop=stop_at_end(builder.tokenizer),
                thinking=self.settings.reading(builder, chat),
                reference=answer,
                group=str(index),
                meta={
                    "source": "generated",
                    "prefix": prefix,
                    "chance": sum(score(prefix + other, answer, prefix) for other in others) / len(others),
                    **{name: int(value) for name, (value,) in sample.meta.items()},
                },
            )
