"""Where a prompt of lm-eval is divided into prefix, context and query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from evals.methods.base import Query


@dataclass(frozen=True)
class Item:
    """A request as token ids. position: its index in the list of requests."""

    position: int
    prefix: tuple[int, ...]
    context: tuple[int, ...]
    query: Query


@dataclass(frozen=True)
class PromptSplitter:
    """Divides prompts. bos: id that is the prefix where a prompt starts with it. decode: text of one id."""

    bos: int | None
    query_tokens: int
    decode: Callable[[int], str]

    def split(self, ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Prefix (BOS), context and query of a prompt.

        A prompt of at most `query_tokens` ids is all query: there is nothing long to read. In a longer one the
        query is what follows the last blank line within the last `query_tokens` ids, usually the question; without
        a blank line, it is those ids. So questions about one document share one read of it.
        """
        start = 1 if ids and ids[0] == self.bos else 0
        prefix, rest = ids[:start], ids[start:]
        if len(rest) <= self.query_tokens:
            return prefix, [], rest
        cut = len(rest) - self.query_tokens
        cut += self._question_start(rest[cut:])
        return prefix, rest[:cut], rest[cut:]

    def item(self, position: int, ids: Sequence[int]) -> Item:
        """The request at `position`, divided."""
        prefix, context, query = self.split(ids)
        question = (0, len(query)) if context else None
        return Item(position, tuple(prefix), tuple(context), Query(tuple(query), question))

    def _question_start(self, ids: Sequence[int]) -> int:
        """Index of the first id after the last blank line that is followed by text; 0 without one."""
        pieces = [self.decode(i) for i in ids]
        blank = "".join(pieces).rstrip().rfind("\n\n")
        if blank < 0:
            return 0
        ends = accumulate(len(piece) for piece in pieces)
        return 1 + next(i for i, end in enumerate(ends) if end >= blank + 2)


def by_context(items: Iterable[Item]) -> list[list[Item]]:
    """Items that share a context, the longest context first."""
    groups = defaultdict(list)
    for item in items:
        groups[item.prefix, item.context].append(item)
    return sorted(groups.values(), key=lambda group: -len(group[0].context))


def last(ids: list[int], room: int | None) -> list[int]:
    """The last `room` ids, at least one: lm-eval cuts long prompts on the left."""
    return ids if room is None else ids[-room:]
