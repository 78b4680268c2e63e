"""MRCR, generated: one of several alike answers of a long conversation is repeated (openai/mrcr on the hub, 2025).

Kept from there: 2, 4 or 8 answers to the same request, the random prefix, the score. Changed: texts are short and come
from word lists, the conversation is plain text; scores must not stand beside those of the published prompts.
An instance depends on (needles, seed, length, index, tokenizer) alone.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evals.tasks.base import Instance, Output, Task
from evals.tasks.chat_settings import ChatSettings
from evals.tasks.common.generated import Family, Sample, fitted
from evals.tasks.common.prompt import Prompt
from evals.tasks.mrcr.scores import score
from evals.tasks.mrcr.writer import FORMS, TOPICS, alike, text
from evals.tasks.official import stop_at_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
PREFIX_CHARS = 10
NEW_TOKENS = 200
"""Answer budget: one token per character of prefix and longest text is enough."""
SUBSETS = {"2needle": 2, "4needle": 4, "8needle": 8}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
NEXT = "\n\nUser:"


class MrcrSettings(ChatSettings):
    """chat: wrap the whole conversation in the tokenizer's chat template, as one message."""

    chat: bool = False


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


class Mrcr(Task):
    """The n-th of several alike answers (generated variant)."""

    settings: MrcrSettings
    settings_model = MrcrSettings
    name: ClassVar[str] = "mrcr"
    subsets: ClassVar[Sequence[str]] = tuple(SUBSETS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    def files(self) -> Sequence[Path]:
        return []

    def sample_count(self) -> int:
        return SAMPLES

    def answer_tokens(self) -> int:
        return NEW_TOKENS

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of MRCR always has a length"
        builder, chat = self.settings.builder(tokenizer), self.settings.chat
        subset = self.subset or "2needle"

        def build(sample: Sample, budget: int | None = None) -> Prompt:
            return builder.build(
                sample.before,
                sample.context,
                sample.lead + sample.question + sample.answer_prefix,
                budget=budget,
                question=sample.question,
                answer="" if chat else "Assistant:",
                chat=chat,
            )

        samples = fitted(
            Conversation(SUBSETS[subset]),
            build,
            f"mrcr {subset}:{seed}:{length}",
            length,
            min(SAMPLES, limit or SAMPLES),
        )
        for index, (sample, prompt) in enumerate(samples):
            prefix, answer, *others = sample.answers
            yield Instance(
                id=str(index),
                prompt=prompt,
                max_new_tokens=NEW_TOKENS,
                stop=stop_at_end(tokenizer),
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

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published, of the answer up to the next turn. chance: that of another alike text, on average."""
        text = output.text.partition(NEXT)[0].strip()
        return {
            "score": score(text, instance.reference, instance.meta["prefix"]),
            "chance": instance.meta["chance"],
        }
