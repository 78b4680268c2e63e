"""MRCR, official: the published conversations, of which each length has its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evals.tasks.base import Instance
from evals.tasks.common.conversation import written
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.mrcr import rows
from evals.tasks.mrcr.settings import MrcrSettings
from evals.tasks.settings.source import Source
from evals.tasks.settings.whole_rows import may_have, of_length

SPARE = 32
"""Tokens that a row leaves besides its answer."""


class Official(Source):
    """The published conversations that have the length."""

    settings: MrcrSettings

    def check(self) -> None:
        rows.locate(self.subset, self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.subset, self.data)

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        """Rows in file order. seed is not used: nothing is random."""
        return first(of_length(self._possible(builder, length), length), limit)

    def _possible(self, builder: PromptBuilder, length: int) -> Iterator[Instance]:
        """The rows without those that cannot have the length."""
        chat = self.settings.chat
        for part, file in enumerate(rows.locate(self.subset, self.data)):
            for number, row in rows.read(file):
                new_tokens = self.settings.max_new_tokens or len(builder.encode(row.answer)) + SPARE
                if not may_have(row.prompt, new_tokens, length):
                    continue
                where = f"{file}, row {number}"
                asked = rows.asked(row, where)
                with errors_at(where):
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
