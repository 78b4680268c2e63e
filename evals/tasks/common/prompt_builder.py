"""Prompts from text: it becomes ids exactly once, here, and only the context may be cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from evals.errors import UserError
from evals.methods.truncation import Side
from evals.tasks.common.chat import Turn, turn
from evals.tasks.common.prompt import Frame, Prompt, assemble
from evals.tasks.common.token_ids.encoding import Encoded, TextEncoder
from evals.tasks.common.whole_cut import Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{context}"


class PromptBuilder(TextEncoder):
    """Makes prompts for one tokenizer.

    Exactly one BOS stands first where the tokenizer adds one by itself, none where it does not. (Some have a
    `bos_token` that they never add: SmolLM2's is the mark that opens a chat turn.)
    Raises UserError for a tokenizer without character offsets.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        variables: Mapping[str, object] | None = None,
        thinking: bool | None = None,
    ) -> None:
        super().__init__(tokenizer)
        self._variables = variables
        self._thinking = thinking
        bos = tokenizer.bos_token_id
        adds = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        self.bos: int | None = bos if adds else None

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        variables: Mapping[str, object] | None = None,
        thinking: bool | None = None,
    ) -> Self:
        """The builder of a tokenizer, made once: copying a large vocabulary for every cell takes a share of the run.

        variables, thinking: for its chat template (`evals.tasks.common.chat.turn`).
        """
        return cls._of(tokenizer, json.dumps(dict(variables or {}), sort_keys=True), thinking)

    @classmethod
    @lru_cache(maxsize=4)
    def _of(cls, tokenizer: PreTrainedTokenizerBase, variables: str, thinking: bool | None) -> Self:
        return cls(tokenizer, json.loads(variables), thinking)

    @property
    def turn(self) -> Turn:
        """How the chat template writes a user message. Raises UserError where there is none, or it does not fit."""
        return turn(self.tokenizer, self._variables, self._thinking)

    @property
    def identity(self) -> tuple[str, str, str]:
        """All of the tokenizer that decides a request: ids, special tokens and where answers stop, chat template."""
        stops = sorted(getattr(self.tokenizer, "generation_stop_ids", ()))
        special = f"{self.bos} {self.tokenizer.special_tokens_map} {stops}"
        return self.fingerprint, special, str(self.tokenizer.chat_template)

    def build(
        self,
        before: str,
        context: str,
        after: str,
        *,
        budget: int | None = None,
        side: Side = "middle",
        rule: Rule | None = None,
        chat: bool = False,
        question: str | None = None,
        answer: str = "",
        template: str | None = None,
        evidence: tuple[int, int] | None = None,
    ) -> Prompt:
        """The prompt `before + context + after`, tokenised once as one text and then divided.

        A token belongs to the context only if it lies wholly inside. budget: tokens of the whole prompt; what is
        too much is cut out of the context (`kept_ends`), or by an official `rule` out of the whole prompt
        (`cut_middle`). chat: wrap all in the tokenizer's chat template as one user message; `answer` follows it and
        begins the reply. question: text in `after` that a search may look at. template: official template text,
        whose hash goes into the audit. evidence: span of characters of the context that the answer needs; the audit
        says whether it was cut.
        Raises UserError for an empty context, a budget without room for the context, a missing chat template.
        """
        if not context:
            raise UserError("The context of a sample is empty: remove the row, every method needs a context.")
        opened, closed = self._wrapper(answer, chat)
        before, after = self._wrap(before, after, answer, chat)
        start, end = len(before), len(before) + len(context)
        whole = self.encode_with_spans(before + context + after)
        first = _first(whole.spans[:, 0] >= start)
        last = max(first, _first(whole.spans[:, 1] > end))
        frame = self._frame(whole.ids[:first], whole.part(last), _find(after, question, end))
        inside = whole.part(first, last)
        where = None if evidence is None else _covering(inside.moved(-start), evidence)
        ends = end + len(after) - closed
        added = len(frame.prefix) - first
        wrapper = (
            (added + int((whole.spans[:first, 1] <= opened).sum()), int((whole.spans[last:, 0] >= ends).sum()))
            if opened or closed
            else (0, 0)
        )
        return assemble(
            frame,
            inside.ids,
            budget=budget,
            side=side,
            rule=rule,
            wrapper=wrapper,
            template=template,
            evidence=where,
        )

    def frame(
        self, before: str, after: str, *, chat: bool = False, question: str | None = None, answer: str = ""
    ) -> Frame:
        """What `build` would put around a context, for a context that exists as ids already."""
        before, after = self._wrap(before, after, answer, chat)
        query = self.encode_with_spans(after, after=".")  # contexts end in text: no dummy prefix space
        return self._frame(self.encode(before) if before else [], query, _find(after, question, 0))

    def _wrapper(self, answer: str, chat: bool) -> tuple[int, int]:
        """Characters of the chat template before and after the message, `answer` included."""
        return (len(self.turn.before), len(self.turn.after) + len(answer)) if chat else (0, len(answer))

    def _wrap(self, before: str, after: str, answer: str, chat: bool) -> tuple[str, str]:
        if not chat:
            return before, after + answer
        before, after = self.turn.wrap(before, after)
        return before, after + answer

    def _frame(self, prefix: list[int], query: Encoded, question: tuple[int, int] | None) -> Frame:
        if self.bos is not None and prefix[:1] != [self.bos]:
            prefix = [self.bos, *prefix]
        bos = 0
        while self.bos is not None and prefix[bos : bos + 1] == [self.bos]:
            bos += 1
        return Frame(prefix, query.ids, None if question is None else _covering(query, question), bos)


def fill(template: str, **fields: Any) -> tuple[str, str]:
    """The text before and after the context slot of a template, other slots filled as by `str.format`.

    Braces in the values are safe. Raises ValueError unless the template has exactly one `{context}`.
    """
    if template.count(SLOT) != 1:
        raise ValueError(f"A template needs exactly one {SLOT}, this has {template.count(SLOT)}: {template[:80]!r}")
    before, _, after = template.partition(SLOT)
    return before.format(**fields), after.format(**fields)


def _find(after: str, question: str | None, offset: int) -> tuple[int, int] | None:
    """Span of the last occurrence of the question in `after`, which begins at character `offset`."""
    if not question:
        return None
    if question not in after:  # chat templates often strip the message
        question = question.strip()
    at = after.rindex(question)
    return offset + at, offset + at + len(question)


def _covering(tokens: Encoded, chars: tuple[int, int]) -> tuple[int, int]:
    """Half-open span of the tokens that touch a span of characters."""
    touching = np.flatnonzero((tokens.spans[:, 0] < chars[1]) & (tokens.spans[:, 1] > chars[0]))
    return (int(touching[0]), int(touching[-1]) + 1) if len(touching) else (0, 0)


def _first(found: np.ndarray) -> int:
    """Index of the first true element; the length where there is none."""
    return int(found.argmax()) if found.any() else len(found)
