"""Prompts as token ids: put together from parts, cut to a budget, with an account of what was done to them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from evals.errors import UserError
from evals.methods.base import Query
from evals.methods.truncation import Side, kept_ends
from evals.tasks.common.whole_cut import Kept, Rule, cut_middle


@dataclass(frozen=True)
class Audit:
    """What was done to a prompt, stored with every sample.

    tokens: ids in the prompt as used; cut_tokens: context ids removed; cut_at: index in the context where the
    cut lies (None: nothing cut); cut_prefix, cut_query: ids removed there, where an official script cuts them too;
    bos: number of BOS ids; template_sha256: of the template text, if any; needle_survived: whether the evidence is
    still in the context (None where a task has no such notion).
    """

    tokens: int
    cut_tokens: int = 0
    cut_at: int | None = None
    cut_prefix: int = 0
    cut_query: int = 0
    bos: int = 0
    template_sha256: str | None = None
    needle_survived: bool | None = None

    @property
    def uncut(self) -> int:
        """Tokens before anything was cut."""
        return self.tokens + self.cut_tokens + self.cut_prefix + self.cut_query

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Reading:
    """Prefix and context as a key of a dict: nothing is written out as text, as for `Prompt.context_key`."""

    def __init__(self, prefix: list[int], context: list[int]) -> None:
        self._ids = prefix, context
        self._hash = hash((tuple(prefix), tuple(context)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reading) and self._ids == other._ids


@dataclass(frozen=True)
class Prompt:
    """Token ids of prefix (BOS, instruction), context (long, may be cut) and query (question, answer stem)."""

    prefix: list[int]
    context: list[int]
    query: list[int]
    question: tuple[int, int] | None = None
    audit: Audit = field(default_factory=lambda: Audit(tokens=0))

    def as_query(self) -> Query:
        return Query(ids=self.query, question=self.question)

    def __len__(self) -> int:
        return len(self.prefix) + len(self.context) + len(self.query)

    @cached_property
    def reading(self) -> Reading:
        """What is read before the query: prompts whose readings are equal can share one."""
        return Reading(self.prefix, self.context)

    @cached_property
    def context_key(self) -> str:
        """Hash of prefix and context, the same in every run."""
        raw = repr((self.prefix, self.context)).encode()
        return hashlib.sha256(raw).hexdigest()[:16]


@dataclass(frozen=True)
class Frame:
    """What stands around a context, as ids: for tasks that put their contexts together from ids."""

    prefix: list[int]
    query: list[int]
    question: tuple[int, int] | None
    bos: int

    def __len__(self) -> int:
        return len(self.prefix) + len(self.query)


def assemble(
    frame: Frame,
    context: list[int],
    *,
    budget: int | None = None,
    side: Side = "middle",
    rule: Rule | None = None,
    wrapper: tuple[int, int] = (0, 0),
    template: str | None = None,
    evidence: tuple[int, int] | None = None,
) -> Prompt:
    """A prompt from ids. rule: cut the whole prompt (`cut_middle`, which has `wrapper`), not the context alone.
    evidence: span of `context` ids that the answer needs.

    Raises UserError if the budget leaves no room for any context.
    """
    survived = None if evidence is None else True
    hashed = None if template is None else hashlib.sha256(template.encode()).hexdigest()
    if budget is None or len(frame) + len(context) <= budget:
        tokens = len(frame) + len(context)
        audit = Audit(tokens=tokens, bos=frame.bos, template_sha256=hashed, needle_survived=survived)
        return Prompt(frame.prefix, context, frame.query, frame.question, audit)
    if rule is None:
        kept = _cut_context(frame, context, budget, side)
    else:
        kept = cut_middle(
            frame.prefix,
            context,
            frame.query,
            budget,
            rule,
            question=frame.question,
            wrapper=wrapper,
            bos=frame.bos,
        )
    if evidence is not None:
        survived = evidence[1] <= kept.cut_at or evidence[0] >= kept.cut_at + kept.cut_context
    audit = Audit(
        tokens=len(kept.prefix) + len(kept.context) + len(kept.query),
        cut_tokens=kept.cut_context,
        cut_at=kept.cut_at if kept.cut_context else None,
        cut_prefix=kept.cut_prefix,
        cut_query=kept.cut_query,
        bos=frame.bos,
        template_sha256=hashed,
        needle_survived=survived,
    )
    return Prompt(kept.prefix, kept.context, kept.query, kept.question, audit)


def _cut_context(frame: Frame, context: list[int], budget: int, side: Side) -> Kept:
    """The frame as it is, around what fits of the context."""
    if len(frame) >= budget:
        raise UserError(
            f"A prompt needs {len(frame)} tokens besides its context, and its length is {budget}: "
            "choose a larger --length."
        )
    room = budget - len(frame)
    head, tail = kept_ends(len(context), room, side, before=len(frame.prefix), after=len(frame.query))
    cut = len(context) - head - tail
    left = context[:head] + context[head + cut :]
    return Kept(frame.prefix, left, frame.query, frame.question, 0, cut, 0, head)
