"""What a chat template does with a message, found by rendering it: once for a tokenizer, not once for a prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.tasks.common.rendering import Conversation, Message, Rendered, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINEL = "\u241f\u241econtext\u241e\u241f"
"""Stands for a message while a template is rendered: symbols for control characters, in no real prompt."""
REPLY = "\u241f\u241ereply\u241e\u241f"
FOLLOW_UP = "\u241f\u241efollow-up\u241e\u241f"
SWITCHES = ("enable_thinking", "thinking")
"""Names under which templates take the switch for thinking (Qwen 3, SmolLM 3, GLM; DeepSeek 3.1, Granite)."""
MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""What opens and closes a block of thinking in the text of an answer."""


@dataclass(frozen=True)
class Turn:
    """A user message in the template: before + message + after, where `after` opens the assistant's turn.

    strips: white space around the message is dropped. opens_thinking: `after` ends inside a block of thinking.
    """

    before: str
    after: str
    strips: bool

    @property
    def opens_thinking(self) -> bool:
        return any(self.after.rfind(start) > self.after.rfind(end) for start, end in MARKS)

    def wrap(self, before: str, after: str) -> tuple[str, str]:
        """What stands before and after a context whose message is `before` + context + `after`."""
        if self.strips:
            before, after = before.lstrip(), after.rstrip()
        return self.before + before, after + self.after


def turn(
    tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, object] | None = None, thinking: bool | None = None
) -> Turn:
    """How the tokenizer's template writes one user message.

    variables: for the template. thinking: whether it is told to think; None: nothing is said.
    Raises UserError for a missing template, one that does not hold the message as it is, and one that does not know
    the variables or cannot be told what `thinking` asks.
    """
    given = json.dumps(dict(variables or {}), sort_keys=True)
    return _turn(tokenizer, str(tokenizer.chat_template), given, thinking)


@lru_cache(maxsize=64)
def _turn(tokenizer: PreTrainedTokenizerBase, template: str, given: str, thinking: bool | None) -> Turn:
    """template: only a part of the key, since a tokenizer's may be replaced."""
    if not tokenizer.chat_template:
        raise UserError("This tokenizer has no chat template: leave chat off.")
    variables: dict[str, object] = json.loads(given)
    if ignored := [name for name in variables if not re.search(rf"\b{re.escape(name)}\b", template)]:
        raise UserError(f"The chat template knows no variable `{ignored[0]}`: leave it out of chat_template_kwargs.")
    if thinking is None:
        return _read(tokenizer, variables)
    for name in SWITCHES:
        told, otherwise = (_read(tokenizer, {**variables, name: value}) for value in (thinking, not thinking))
        if told != otherwise:
            return told
    plain = _read(tokenizer, variables)
    if plain.opens_thinking == thinking:
        return plain
    if thinking:
        raise UserError("The chat template has no switch for thinking: leave out thinking=on.")
    raise UserError("The chat template always thinks: use thinking=strip in place of thinking=off.")


def _read(tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, object]) -> Turn:
    """Two messages, one with white space around it, each as a text and as a list of parts."""
    messages = (SENTINEL, f"\n {SENTINEL} \n")
    contents: list[object] = [*messages, *([{"type": "text", "text": message}] for message in messages)]
    asked = [Conversation([{"role": "user", "content": content}], variables=variables) for content in contents]
    found = render(tokenizer, asked)
    as_text, as_parts = _turn_of(*found[:2]), _turn_of(*found[2:])
    chosen = as_text if isinstance(as_text, Turn) else as_parts
    if isinstance(chosen, Turn):
        return chosen
    raise UserError(f"The chat template {as_text}: use another template, or leave chat off.")


def _turn_of(plain: Rendered, spaced: Rendered) -> Turn | str:
    """The turn, or what is wrong with the template."""
    if plain.error is not None or spaced.error is not None:
        return f"refuses a user message ({plain.error or spaced.error})"
    count = plain.text.count(SENTINEL)
    if count > 1:
        return "repeats the user's message"
    if not count:
        pieces = (SENTINEL[i : i + 4].lower() for i in range(len(SENTINEL) - 3))
        altered = any(piece in plain.text.lower() for piece in pieces)
        return "alters the user's message" if altered else "drops the user's message"
    before, _, after = plain.text.partition(SENTINEL)
    for strips, expected in ((False, f"{before}\n {SENTINEL} \n{after}"), (True, plain.text)):
        if spaced.text == expected:
            return Turn(before, after, strips)
    return "alters the user's message"


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template puts after a message of the assistant; None where there is none.

    It is what follows the message whether the conversation ends there or goes on, if that begins with a token of
    the tokenizer's own (`<|im_end|>`) rather than with text.
    """
    try:
        return _end_of_turn(tokenizer, str(tokenizer.chat_template)) if tokenizer.chat_template else None
    except UserError:  # a template beyond the limits names no token; a prompt that needs it is refused by `turn`
        return None


@lru_cache(maxsize=64)
def _end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> int | None:
    """template: only a part of the key, since a tokenizer's may be replaced."""

    def conversation(in_parts: bool, *contents: str) -> Conversation:
        messages: list[Message] = [
            {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
            for role, text in zip(("user", "assistant", "user"), contents, strict=False)
        ]
        return Conversation(messages, answer_next=False)

    asked = [conversation(p, *c) for p in (False, True) for c in ((SENTINEL, REPLY), (SENTINEL, REPLY, FOLLOW_UP))]
    found = [one.text.partition(REPLY)[2] for one in render(tokenizer, asked)]
    for last, within in (found[:2], found[2:]):
        pairs = zip(last, within.partition(FOLLOW_UP)[0], strict=False)
        shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)).lstrip()
        own = [
            i for i, t in tokenizer.added_tokens_decoder.items() if t.content.strip() and shared.startswith(t.content)
        ]
        if own:
            return max(own, key=lambda i: len(tokenizer.added_tokens_decoder[i].content))
    return None
