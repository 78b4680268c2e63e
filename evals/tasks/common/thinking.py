"""Answers of models that think before they answer: switched off in the prompt, or cut out of the answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.tasks.common.chat import MARKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HINT_SHARE = 0.5
"""Share of a cell's answers that must end inside a block of thinking before a run says so."""


@dataclass(frozen=True)
class Thinking:
    """How the answers to a prompt are read. strip: blocks of thinking are cut out before an answer is scored.
    opened: the prompt itself ends inside a block (DeepSeek R1, Qwen 3 Thinking).
    """

    strip: bool = False
    opened: bool = False


@dataclass(frozen=True)
class Answer:
    """The text to score. thinking_tokens: ids spent on thinking; unfinished: the answer ends inside a block."""

    text: str
    thinking_tokens: int = 0
    unfinished: bool = False


def read_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int], thinking: Thinking) -> Answer:
    """New ids as text without special tokens, and, with `strip`, without blocks of thinking and white space after
    them. An unclosed block reaches to the end of the answer.
    """
    whole = str(tokenizer.decode(ids, skip_special_tokens=True))
    written = _text(tokenizer, ids)
    blocks, unfinished = _blocks(written, thinking.opened)
    if not blocks:
        return Answer(whole)
    kept, spent, at = [], 0, 0
    for start, end in [*blocks, (len(written), len(written))]:
        first, last = _reached(tokenizer, ids, at), _reached(tokenizer, ids, start)
        piece = _text(tokenizer, ids[:first])[at:] + str(tokenizer.decode(ids[first:last], skip_special_tokens=True))
        kept.append(piece.lstrip() if at else piece)
        spent += _reached(tokenizer, ids, end) - last
        at = end
    return Answer("".join(kept) if thinking.strip else whole, spent, unfinished)


def without_thinking(text: str) -> str:
    """A reply without its blocks of thinking and the white space around them. A mark that closes a block which no mark
    opens (its chat template did) closes one from the start; an unclosed block reaches to the end.
    """
    close, begin = _first(text, [end for _, end in MARKS], 0), _first(text, [start for start, _ in MARKS], 0)
    blocks, _ = _blocks(text, opened=close is not None and (begin is None or close < begin))
    starts, ends = [0, *(end for _, end in blocks)], [*(start for start, _ in blocks), len(text)]
    return "".join(text[start:end] for start, end in zip(starts, ends, strict=True)).strip() if blocks else text


def hint(unfinished: Sequence[bool]) -> str | None:
    """A sentence where most answers of a cell ended while the model was thinking; None where they did not."""
    count = sum(unfinished)
    if not unfinished or count <= HINT_SHARE * len(unfinished):
        return None
    return (
        f"{count} of {len(unfinished)} answers end inside a block of thinking: --set thinking=off tells the model "
        "not to think; a larger answer budget with thinking=strip lets it finish."
    )


def _blocks(text: str, opened: bool) -> tuple[list[tuple[int, int]], bool]:
    """Spans of the blocks of thinking, marks included, and whether the last of them is unclosed."""
    blocks: list[tuple[int, int]] = []
    at, start = 0, 0 if opened else None
    ends = [end for _, end in MARKS]
    while True:
        if start is not None:
            closed = _first(text, ends, at)
            if closed is None:
                return [*blocks, (start, len(text))], True
            blocks.append((start, closed[1]))
            at, start = closed[1], None
        found = _first(text, [mark for mark, _ in MARKS], at)
        if found is None:
            return blocks, False
        start, at = found


def _first(text: str, marks: Sequence[str], at: int) -> tuple[int, int] | None:
    """Span of the first of the marks from character `at` on."""
    found = [(place, place + len(mark)) for mark in marks if (place := text.find(mark, at)) >= 0]
    return min(found, default=None)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def _reached(tokenizer: PreTrainedTokenizerBase, ids: list[int], chars: int) -> int:
    """How many of the ids it takes to write `chars` characters."""
    return bisect_left(range(len(ids)), chars, key=lambda n: len(_text(tokenizer, ids[:n]))) if chars else 0
