"""A text and a question about it as token ids: whole chunks of context, running text, and the span of the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sharedllm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{question}"
TEMPLATE = "\n\nQuestion: {question}\nAnswer:"
"""How a question stands after its text: the wording that the shipped adapter was trained with."""


@dataclass(frozen=True)
class ContextPrompt:
    """chunks: whole chunks of the text, of chunk_size ids each. running: what the upper model reads: BOS where the
    tokenizer adds one, the rest of the text, and the question in its template.
    question: half-open span of `running` that the search may look at.
    """

    chunks: list[list[int]]
    running: list[int]
    question: tuple[int, int]


def whole_chunks(context: int, chunk_size: int, led: bool) -> int:
    """Chunks that a context of `context` tokens is cut into. What is left is running text, at least one token of it
    unless BOS or an instruction leads (`led`)."""
    return max(0, context - (not led)) // chunk_size


def ask_about(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    question: str,
    chunk_size: int,
    template: str = TEMPLATE,
    answer_start: str = "",
) -> ContextPrompt:
    """The prompt `context + template with the question + answer_start`, tokenised once as one text.

    A token belongs to the context only if it lies wholly inside. Raises UserError for a tokenizer without character
    offsets, a template without exactly one `{question}`, and an empty question.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer.")
    if template.count(SLOT) != 1:
        raise UserError(f"The template {template!r} needs exactly one {SLOT}: it says where the question stands.")
    if not question.strip():
        raise UserError("The question is empty: there is nothing to search for.")
    before, after = template.split(SLOT)
    start = len(context) + len(before)
    text = context + before + question + after + answer_start
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = cast(list[int], encoded["input_ids"]), cast(list[tuple[int, int]], encoded["offset_mapping"])
    inside = sum(end <= len(context) for _, end in spans)
    asked = [i for i, (first, end) in enumerate(spans) if first < start + len(question) and end > start]
    lead = _bos(tokenizer)
    cut = whole_chunks(inside, chunk_size, bool(lead)) * chunk_size
    shift = len(lead) - cut
    return ContextPrompt(
        chunks=[ids[i : i + chunk_size] for i in range(0, cut, chunk_size)],
        running=[*lead, *ids[cut:]],
        question=(asked[0] + shift, asked[-1] + 1 + shift),
    )


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """BOS, where the tokenizer adds one by itself: some have a `bos_token` that they never add."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
