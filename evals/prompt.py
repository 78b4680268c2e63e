"""Prompts as token ids: text becomes ids exactly once, here, and only the context may be cut."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from evals.model import Query


@dataclass(frozen=True)
class Audit:
    """What was done to a prompt, stored with every sample.

    tokens: ids in the prompt as used; cut_tokens: context ids removed; cut_at: index in the context where the
    cut lies (None: nothing cut); bos: number of BOS ids; template_sha256: of the template text, if any;
    needle_survived: whether the evidence is still in the context (None where a task has no such notion).
    """

    tokens: int
    cut_tokens: int = 0
    cut_at: int | None = None
    bos: int = 0
    template_sha256: str | None = None
    needle_survived: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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

    @property
    def context_key(self) -> str:
        """Hash of prefix and context: prompts with equal keys can share one read."""
        raw = repr((self.prefix, self.context)).encode()
        return hashlib.sha256(raw).hexdigest()[:16]
