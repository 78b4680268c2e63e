"""Where the published code puts a needle into a book: data/book_haystack.py of github.com/adobe-research/NoLiMa."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.prompt_builder import PromptBuilder


@dataclass(frozen=True)
class Book:
    """A book in one vocabulary. lines: 0, and indices of the ids that hold a line break."""

    name: str
    ids: list[int]
    lines: np.ndarray
    builder: PromptBuilder

    def around(self, tokens: int, depth: float) -> tuple[str, str]:
        """The text before and after a needle: `tokens` ids of the book, of which the share `depth` stands before it.

        The needle ends the first line that is long enough before it; the window moves so that its share is right.
        Raises UserError for a book that is too short.
        """
        enough = np.flatnonzero(self.lines >= depth * (tokens + 1))
        if not len(enough) and len(self.ids) > depth * (tokens + 1):
            raise UserError(f"{self.name} has no line break where a needle could stand: take the book as published.")
        place = int(self.lines[enough[0]]) if len(enough) else len(self.ids)
        start = place - round(tokens * depth)
        if not len(enough) or start + tokens > len(self.ids):
            raise UserError(
                f"{self.name} has {len(self.ids)} tokens, too few for a context of {tokens}: choose a smaller --length."
            )
        before = self._text(start, place + 1)
        return before[: max(before.rfind("\n"), 0)], self._text(place + 1, start + tokens)

    def _text(self, start: int, end: int) -> str:
        return str(self.builder.tokenizer.decode(self.ids[start:end], clean_up_tokenization_spaces=False))


@lru_cache(maxsize=8)
def opened(file: RowFile, builder: PromptBuilder) -> Book:
    """A book, tokenised once for all cells of a run."""
    ids = builder.encode(file.text())
    breaks = {token for token in set(ids) if "\n" in builder.tokenizer.decode([token])}
    lines = np.array([0, *(i for i, token in enumerate(ids) if token in breaks)])
    return Book(str(file), ids, lines, builder)
