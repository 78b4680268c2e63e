"""Windows: the pieces of documents that are scored, and the contexts that other documents lend them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.errors import UserError
from evals.tasks.common.documents import Document
from evals.tasks.common.token_ids.id_lists import listed
from evals.tasks.perplexity.overlap import SHARE, TARGET_SHARE, Runs, Span, Words, runs, shared
from evals.tasks.perplexity.settings import PerplexitySettings
from evals.tasks.perplexity.tokens import TokenStore


@dataclass(frozen=True)
class Window:
    """A piece of a document: its tokens and the text of its targets.

    at: where it ends, in tokens from the end (0 or less) or the start of the document, as the anchor counts. span:
    of its characters in the document. read: span of what was tokenised with it. begins: whether the document begins
    with it.
    """

    document: Document
    at: int
    ids: list[int]
    target: str
    span: Span
    read: Span
    begins: bool


class Reader:
    """Cuts windows out of documents. copies: what is known of them, at other lengths too."""

    def __init__(self, store: TokenStore, copies: Copies, protocol: PerplexitySettings, length: int) -> None:
        self._store = store
        self._copies = copies
        self._protocol = protocol
        self._length = length
        self.longest = 0
        """Tokens of the longest document seen (or as many of it as were needed)."""

    @property
    def _from_end(self) -> bool:
        return self._protocol.anchor == "end"

    @property
    def _first(self) -> int:
        """Where the first window of a document ends."""
        return self._protocol.anchor if isinstance(self._protocol.anchor, int) else self._length

    def _need(self, document: Document) -> int:
        """Tokens of a document that must be made: those of its windows, and where only their number tells that it has
        `min_tokens`, as many as that.
        """
        windows = self._first + (self._protocol.windows - 1) * self._protocol.stride
        least = self._protocol.min_tokens
        if least > windows and self._store.fewest(document, windows, from_end=self._from_end) < least:
            return least
        return windows

    def windows(self, document: Document) -> Iterator[Window]:
        """The windows of a document, none where it is too short."""
        protocol, length, from_end, first = self._protocol, self._length, self._from_end, self._first
        need = self._need(document)
        held = self._store.tokens(document, need, from_end=from_end)
        total = len(held.ids)
        self.longest = max(self.longest, total)
        if total < min(protocol.min_tokens, need):  # fewer than `min_tokens` are enough where they tell of the rest
            return
        for step in range(0, protocol.windows * protocol.stride, protocol.stride):
            end = -step if from_end else first + step
            stop = total + end if from_end else end
            if (stop < length and from_end) or stop > total:
                return  # the windows to come lie outside as well
            if stop < length:
                continue
            span = int(held.spans[stop - length, 0]), int(held.spans[stop - 1, 1])
            target = document.text[held.spans[stop - protocol.scored, 0] : span[1]]
            ids = listed(held.ids[stop - length : stop])
            begins = stop == length and held.spans[0, 0] == 0
            yield Window(document, end, ids, target, span, held.span, bool(begins))

    def other(self, documents: Sequence[Document], window: Window, tokens: int) -> tuple[str, list[int]]:
        """The last `tokens` tokens of the next document after the window's that has as many and shares no text with
        it, one of the same domain if there is one. Raises UserError where there is none.
        """
        own = window.document
        at = documents.index(own)
        later = [*documents[at + 1 :], *documents[:at]]
        copies = 0
        for document in sorted(later, key=lambda document: document.domain != own.domain):
            held = self._store.tokens(document, tokens, from_end=True)
            start = len(held.ids) - tokens
            if start < 0:
                continue
            context = int(held.spans[start, 0]), len(document.text)
            if not self._copies.between(window, document, context, held.span):
                return document.id, listed(held.ids[start:])
            copies += 1
        raise UserError(
            f"The control `other` needs a second document of {tokens} tokens"
            + (f", and the {copies} others share text with {own.id}" if copies else "")
            + ": add one, or --set context=own,none."
        )


class Copies:
    """Which documents share text with a window. What was found of a document or a context is remembered."""

    def __init__(self) -> None:
        self._documents: dict[str, Runs] = {}
        self._words: dict[str, Words] = {}
        self._contexts: dict[tuple[str, Span], Runs] = {}

    def between(self, window: Window, document: Document, context: Span, read: Span) -> bool:
        """Whether the span `context` of `document` shares text with the window, or the two documents do.

        read: span of what was tokenised of the document.
        """
        own = window.document
        if own.text == document.text:
            return True
        if shared(self._of(own), self._of(document)) > SHARE:
            return True
        lent = self._of_context(document, context, read)
        return (
            shared(self._words_of(own, window.span, window.read).runs(window.span), lent) > SHARE
            or shared(runs(window.target), lent) > TARGET_SHARE
        )

    def _of_context(self, document: Document, context: Span, read: Span) -> Runs:
        key = document.id, context
        if key not in self._contexts:
            self._contexts[key] = self._words_of(document, context, read).runs(context)
        return self._contexts[key]

    def _words_of(self, document: Document, needed: Span, read: Span) -> Words:
        """The words of a part of the document that has the span `needed`: of all that was tokenised, which the windows
        of other lengths need as well."""
        held = self._words.get(document.id)
        if held is None or needed[0] < held.span[0] or held.span[1] < needed[1]:
            spans = [needed, read] if held is None else [needed, read, held.span]
            part = min(start for start, _ in spans), max(stop for _, stop in spans)
            held = self._words[document.id] = Words(document.text, part)
        return held

    def _of(self, document: Document) -> Runs:
        if document.id not in self._documents:
            self._documents[document.id] = runs(document.text)
        return self._documents[document.id]


def in_turn(documents: Sequence[Document]) -> list[Document]:
    """Longest first within a domain, one of each domain in turn: every start of the list is a fair sample, and
    longer lengths use a start of what shorter ones use."""
    queues: dict[str, list[Document]] = defaultdict(list)
    for document in sorted(documents, key=lambda document: (-len(document.text), document.id)):
        queues[document.domain].append(document)
    ordered = []
    while queues:
        for domain in sorted(queues):
            ordered.append(queues[domain].pop(0))
            if not queues[domain]:
                del queues[domain]
    return ordered
