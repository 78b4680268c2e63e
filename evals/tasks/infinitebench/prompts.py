"""Rows of InfiniteBench as prompts: a filled official template around the context."""

from __future__ import annotations

from dataclasses import dataclass, field

from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder, fill
from evals.tasks.common.whole_cut import Rule
from evals.tasks.infinitebench.labels import Label
from evals.tasks.infinitebench.subsets import MAX_NEW_TOKENS
from evals.tasks.infinitebench.templates import fields


@dataclass(frozen=True)
class Text:
    """A row as text. answer: as the scorer wants it. evidence: part of the context that holds the answer. order: of
    `Instance`.
    """

    context: str
    input: str
    answer: Label
    options: list[str] = field(default_factory=list)
    evidence: str | None = None
    meta: dict[str, str | float] = field(default_factory=dict)
    order: float = 0.0


@dataclass(frozen=True)
class Request:
    """A prompt with its answer budget, and the row that it was made of."""

    text: Text
    prompt: Prompt
    new_tokens: int

    @property
    def tokens(self) -> int:
        """Prompt and answer together."""
        return len(self.prompt) + self.new_tokens


@dataclass(frozen=True)
class Maker:
    """Makes the requests of one task with one template and tokenizer.

    rule: how its script cuts. max_new_tokens: in place of the official one.
    """

    task: str
    template: str
    builder: PromptBuilder
    chat: bool
    rule: Rule
    max_new_tokens: int | None

    def request(self, text: Text, budget: int | None = None) -> Request:
        """The filled template, cut to the budget; a search may look at the row's question, or at all of the text
        after the context."""
        before, after = fill(self.template, **fields(self.task, text.input, text.options))
        at = -1 if text.evidence is None else text.context.find(text.evidence)
        prompt = self.builder.build(
            before,
            text.context,
            after,
            budget=budget,
            rule=self.rule,
            chat=self.chat,
            question=text.input if text.input and text.input in after else after,
            template=self.template,
            evidence=(at, at + len(text.evidence)) if text.evidence is not None and at >= 0 else None,
        )
        return Request(text, prompt, self._new_tokens(text))

    def _new_tokens(self, text: Text) -> int:
        """The official answer budget; for generated rows of math_calc as long as the answer, up to the official one."""
        official = MAX_NEW_TOKENS[self.task]
        if self.max_new_tokens or self.task != "math_calc" or text.meta.get("source") != "generated":
            return self.max_new_tokens or official
        return min(official, len(self.builder.encode(str(text.answer))) + 16)
