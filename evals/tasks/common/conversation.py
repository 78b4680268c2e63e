"""Whole conversations in a chat template, as MRCR asks them and lm-evaluation-harness sends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.tasks.common.rendering import Conversation, Message, Rendered, render, render_here

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def written(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    answer_next: bool = True,
    variables: Mapping[str, object] | None = None,
    option: str = "chat",
) -> str:
    """The text of a conversation; with `answer_next` it ends with what opens the assistant's turn, without it in the
    middle of the last message. option: what a person leaves out to do without the template.

    The first conversation with these roles is rendered within limits (`evals.tasks.common.rendering`); those after it
    have the same shape and are rendered here. Raises UserError for a template that exceeds the limits, refuses the
    conversation, or drops or alters what a user or the system says. (Templates may cut the thinking out of earlier
    replies.)
    """
    if not tokenizer.chat_template:
        raise UserError(f"This tokenizer has no chat template: leave out {option}.")
    told = {**(variables or {}), **({} if answer_next else {"continue_final_message": True})}
    tried = []
    for in_parts in (False, True):
        asked = Conversation(_contents(messages, in_parts), answer_next, told)
        key = str(tokenizer.chat_template), tuple(message["role"] for message in messages), answer_next, in_parts
        found = render_here(tokenizer, asked) if key in _KNOWN else render(tokenizer, [asked])[0]
        problem = _problem(found, messages)
        if problem is None:
            _KNOWN.add(key)
            return found.text
        tried.append(problem)
    raise UserError(f"The chat template {tried[0]}: use another template, or leave out {option}.")


_KNOWN: set[tuple[str, tuple[str, ...], bool, bool]] = set()
"""Templates and shapes of conversations that kept within the limits."""


def _contents(messages: Sequence[Mapping[str, str]], in_parts: bool) -> list[Message]:
    if not in_parts:
        return list(messages)
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _problem(found: Rendered, messages: Sequence[Mapping[str, str]]) -> str | None:
    """What is wrong with a rendered conversation; None where it is right."""
    if found.error is not None:
        system = "; leave out the system instruction" if any(m["role"] == "system" for m in messages) else ""
        return f"refuses the conversation ({found.error}{system})"
    at = 0
    for message in messages:
        content = message["content"].strip()
        if message["role"] == "assistant" or not content:
            continue
        at = found.text.find(content, at)
        if at < 0:
            return f"drops or alters the message of the role {message['role']}"
        at += len(content)
    return None
