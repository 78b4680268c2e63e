"""NoLiMa, official: the published needles, books and prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from evals.errors import UserError
from evals.tasks.base import Instance
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder, fill
from evals.tasks.common.rows import errors_at
from evals.tasks.common.spread import order
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.nolima import rows
from evals.tasks.nolima.books import Book, opened
from evals.tasks.nolima.settings import NolimaSettings
from evals.tasks.settings.source import Source

DEPTHS = 26
"""Number of depths, from the beginning to the end."""


class Official(Source):
    """All published questions in all books. Drawn, as the seed gives each needle its character."""

    drawn = True

    settings: NolimaSettings

    @property
    def _set(self) -> str:
        return "needle_set_ONLYDirect" if self.subset == "direct" else self.settings.set

    def check(self) -> None:
        rows.asked(rows.needles(self._set, self.data), self.subset)
        rows.books(self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.data)

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        """Every question at every depth of every book, in an order whose every start is spread over them."""
        asked = rows.asked(rows.needles(self._set, self.data), self.subset)
        books = [opened(file, builder) for file in rows.books(self.data)]
        grid = list(product(range(len(asked)), range(len(books)), range(DEPTHS)))
        ranked = [grid[i] for i in sorted(range(len(grid)), key=order)]
        for which, book, depth in ranked[:limit]:
            name = f"{asked[which].id}-book{book + 1}-depth{depth:02d}"
            character = random.Random(f"nolima {name}:{seed}").choice(asked[which].names)
            chosen = asked[which].about(character)
            with errors_at(books[book].name):
                prompt = self._placed(books[book], chosen, length, depth / (DEPTHS - 1))
            yield Instance(
                id=name,
                prompt=prompt,
                max_new_tokens=self.settings.answer_tokens,
                stop=stop_at_end(builder.tokenizer),
                thinking=self.settings.reading(builder, self.settings.chat),
                reference=character,
                group=name,
                meta={
                    "source": "official",
                    "question": chosen.question,
                    "needle": chosen.needle,
                    "others": [],
                    "depth_percent": round(100 * depth / (DEPTHS - 1), 2),
                },
            )

    def _placed(self, book: Book, asked: rows.Asked, length: int, depth: float) -> Prompt:
        """The published prompt, of at most `length` ids with the answer."""
        before, after = fill(asked.template, question=asked.question)
        budget = length - self.settings.answer_tokens
        tokens = budget - len(book.builder.encode(before + asked.needle + after))
        while tokens > 0:
            start, rest = book.around(tokens, depth)
            prompt = book.builder.build(
                before,
                f"{start} {asked.needle}\n{rest}",
                after,
                chat=self.settings.chat,
                question=asked.question,
                template=asked.template,
                evidence=(len(start) + 1, len(start) + 1 + len(asked.needle)),
            )
            if len(prompt) <= budget:
                return prompt
            tokens -= len(prompt) - budget
        raise UserError(f"A length of {length} tokens cannot hold NoLiMa: choose a larger --length.")
