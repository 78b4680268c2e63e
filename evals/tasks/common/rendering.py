"""Rendering of chat templates within limits of time and memory: a template is a program that came with the weights.

transformers runs it in jinja's sandbox, which keeps it away from the machine but lets it loop for hours or fill the
memory. So a template is rendered in a forked child, which may be stopped. Where there can be none (Windows,
and a process that may have no children), a thread renders and only the time is bounded.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, cast

from evals.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, object]
"""role and content; content is a text, or for some templates a list of {type: text, text: ...}."""

SECONDS = 10
"""For all conversations of one call; a template takes milliseconds."""
MEMORY_BYTES = 1 << 30
"""Above what the process holds already."""
TODAY = datetime(2024, 7, 26)
"""What Llama 3.1's template prints where it does not know the date."""
OUTPUT_CHARS = 1_000_000
"""Longest text around a few short messages."""


@dataclass(frozen=True)
class Conversation:
    """Messages to render. answer_next: end with what opens the assistant's turn. variables: for the template."""

    messages: Sequence[Message]
    answer_next: bool = True
    variables: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation, or why there is none."""

    text: str = ""
    error: str | None = None


def render(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]) -> list[Rendered]:
    """Each conversation as the tokenizer's chat template writes it.

    A template that raises gives a `Rendered` with its reason. Raises UserError for one that exceeds the limits.
    """
    from transformers.utils import chat_template_utils  # noqa: F401 - loaded here, so that the child need not

    if hasattr(os, "fork") and not multiprocessing.current_process().daemon:
        return _in_child(tokenizer, conversations)
    return _in_thread(tokenizer, conversations)


def render_here(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Rendered:
    """One conversation without limits of time and memory: for templates that have kept within them."""
    apply = cast("Callable[..., object]", tokenizer.apply_chat_template)  # its annotation leaves no room for variables
    try:
        with _same_day():
            text = apply(
                [dict(message) for message in conversation.messages],
                tokenize=False,
                add_generation_prompt=conversation.answer_next,
                **(conversation.variables or {}),
            )
        json.dumps(text, ensure_ascii=False).encode()
    except MemoryError:
        raise
    except Exception as error:  # a template may raise whatever its filters and methods do
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        return Rendered(error=reason[:200] or type(error).__name__)
    if len(str(text)) > OUTPUT_CHARS:
        return Rendered(error=f"it writes {len(str(text))} characters around one message")
    return Rendered(text=str(text))


def _in_child(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]) -> list[Rendered]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(tokenizer, conversations, sender), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            raise UserError(f"The chat template runs for more than {SECONDS} seconds: use another template.")
        found = receiver.recv()
    except EOFError:
        found = None
    finally:
        child.kill()
        child.join()
        receiver.close()
    if found is None:
        raise UserError(f"The chat template takes more than {MEMORY_BYTES >> 20} MiB of memory: use another template.")
    return [Rendered(text, error) for text, error in found]


def _child(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], sender: Connection) -> None:
    """Sends (text, error) of each conversation; None where memory runs out."""
    _limit_memory()
    try:
        found = [render_here(tokenizer, conversation) for conversation in conversations]
        sender.send([(one.text, one.error) for one in found])
    except MemoryError:
        sender.send(None)
    finally:
        sender.close()
        os._exit(0)  # nothing of the parent's may be flushed or closed twice


class _Clock:
    @staticmethod
    def now() -> datetime:
        return TODAY


@contextlib.contextmanager
def _same_day() -> Iterator[None]:
    """Stops the clock for templates that print the date: the prompts of a cell must not change overnight."""
    from transformers.utils import chat_template_utils

    name = "datetime"
    before = getattr(chat_template_utils, name)
    setattr(chat_template_utils, name, _Clock)
    try:
        yield
    finally:
        setattr(chat_template_utils, name, before)


def _limit_memory() -> None:
    try:
        import resource

        with open("/proc/self/statm") as stream:
            held = int(stream.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not on Linux: time alone is bounded
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, resource.RLIM_INFINITY))


def _in_thread(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]) -> list[Rendered]:
    found: list[Rendered] = []
    thread = threading.Thread(
        target=lambda: found.extend(render_here(tokenizer, c) for c in conversations), daemon=True
    )
    thread.start()
    thread.join(SECONDS)
    if len(found) < len(conversations):
        raise UserError(f"The chat template runs for more than {SECONDS} seconds: use another template.")
    return found
