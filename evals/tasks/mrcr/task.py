"""MRCR: one of several alike answers of a long conversation is repeated (openai/mrcr on the hub, 2025).

`source=generated` (the default) keeps 2, 4 or 8 answers to the same request, the random prefix and the score. Texts are
short and come from word lists, the conversation is plain text; scores must not stand beside those of the published
prompts. An instance depends on (needles, seed, length, index, tokenizer) alone. `source=official`: the published
conversations.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.conversation import written
from evals.tasks.common.generated import Family, Sample, fitted, in_full
from evals.tasks.common.prompt import Prompt, PromptBuilder
from evals.tasks.common.rows import first, naming
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.mrcr import rows
from evals.tasks.mrcr.scores import score
from evals.tasks.mrcr.writer import FORMS, TOPICS, alike, text
from evals.tasks.settings.chat import ChatSettings
from evals.tasks.settings.whole_rows import may_have, of_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
PREFIX_CHARS = 10
NEW_TOKENS = 200
"""Answer budget: one token per character of prefix and longest text is enough."""
SUBSETS = {"2needle": 2, "4needle": 4, "8needle": 8}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
NEXT = "\n\nUser:"
SPARE = 32
"""Tokens that an official row leaves besides its answer."""


class MrcrSettings(ChatSettings):
    """source: `generated` conversations, or the `official` ones. chat: the tokenizer's chat template, around a
    generated conversation as one message, around each message of an official one. max_new_tokens: answer budget of
    official rows; not given: what the answer takes, and 32 more.
    """

    source: Literal["generated", "official"] = "generated"
    chat: bool = False
    max_new_tokens: int | None = Field(None, ge=1)

    added_later: ClassVar[tuple[str, ...]] = (*ChatSettings.added_later, "source", "max_new_tokens")

    @model_validator(mode="after")
    def _consistent(self) -> MrcrSettings:
        if self.source == "generated" and self.max_new_tokens is not None:
            raise ValueError("max_new_tokens is a setting of source=official: generated answers have 200")
        return self


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
    """The n-th of several alike answers."""

    settings: MrcrSettings
    settings_model = MrcrSettings
    name: ClassVar[str] = "mrcr"
    subsets: ClassVar[Sequence[str]] = tuple(SUBSETS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    @property
    def needles(self) -> str:
        """Name of the subset."""
        assert self.subset is not None, "the grid gives every cell one subset"
        return self.subset

    def check(self) -> None:
        if self.settings.source == "official":
            rows.locate(self.needles, self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.needles, self.data) if self.settings.source == "official" else []

    @property
    def drawn(self) -> bool:
        return self.settings.source == "generated"

    def made_to(self, length: int) -> bool:
        return self.settings.source == "generated"

    def sample_count(self) -> int | None:
        return SAMPLES if self.settings.source == "generated" else None

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens or NEW_TOKENS

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of MRCR always has a length"
        builder = self.settings.builder(tokenizer)
        if self.settings.source == "official":
            return first(of_length(self._official(builder, length), length), limit)
        return self._generated(builder, length, min(SAMPLES, limit or SAMPLES), seed)

    def _generated(self, builder: PromptBuilder, length: int, count: int, seed: int) -> Iterator[Instance]:
        chat = self.settings.chat
        build = in_full(builder, chat, "Assistant:")
        key = f"mrcr {self.needles}:{seed}:{length}"
        samples = fitted(Conversation(SUBSETS[self.needles]), build, key, length, count)
        for index, (sample, prompt) in enumerate(samples):
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

    def _official(self, builder: PromptBuilder, length: int) -> Iterator[Instance]:
        """Published rows in file order; those that cannot have the length are left out."""
        chat = self.settings.chat
        for part, file in enumerate(rows.locate(self.needles, self.data)):
            for number, row in rows.read(file):
                new_tokens = self.settings.max_new_tokens or len(builder.encode(row.answer)) + SPARE
                if not may_have(row.prompt, new_tokens, length):
                    continue
                where = f"{file}, row {number}"
                asked = rows.asked(row, where)
                with naming(where):
                    prompt = self._conversation(builder, asked)
                name = f"{part}-{number:04d}"
                yield Instance(
                    id=name,
                    prompt=prompt,
                    max_new_tokens=new_tokens,
                    stop=stop_at_end(builder.tokenizer),
                    thinking=self.settings.reading(builder, chat),
                    reference=row.answer,
                    group=name,
                    meta={
                        "source": "official",
                        "prefix": asked.prefix,
                        "chance": asked.chance,
                        "turns": len(asked.messages) // 2,
                    },
                )

    def _conversation(self, builder: PromptBuilder, asked: rows.Asked) -> Prompt:
        """The messages in the chat template, or as plain text; all before the last is the context."""
        if self.settings.chat:
            text = written(
                builder.tokenizer,
                [message.model_dump() for message in asked.messages],
                variables=self.settings.template_variables,
            )
        else:
            told = (f"{message.role.capitalize()}: {message.content}\n\n" for message in asked.messages)
            text = "".join(told) + "Assistant:"
        opening, question = asked.messages[0].content.strip(), asked.question.strip()
        start, end = text.index(opening), text.rindex(question)
        return builder.build(text[:start], text[start:end], text[end:], question=question)

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published, of the answer up to the next turn. chance: that of another alike text, on average."""
        text = output.text.partition(NEXT)[0].strip()
        return {
            "score": score(text, instance.reference, instance.meta["prefix"]),
            "chance": instance.meta["chance"],
        }
