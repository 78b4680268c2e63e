"""Perplexity of the end of a window, with controls that tell the use of the context from everything else.

A window of L tokens ends at some place of a document. Its last `scored` tokens are the targets; with the rest of
its last `running` tokens they are the text that a method decodes over, and what comes before is the context:

    [BOS] context (L - running) | running text (query) | scored tail (targets)

One set of settings covers the protocols in use (docs/perplexity.md): CEPE and SharedLLM score the last 256 tokens,
YaRN and LongLoRA all or a stride of them. Each window is scored under up to three controls: its `own` context, the
context of the same length of an`other` document, `none`. use_of_context = nll(other) - nll(own): what lower
perplexity owes to the context rather than to the method's other parts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from evals.errors import UserError, unknown
from evals.tasks.base import Instance, Output, Task, TaskSettings
from evals.tasks.common import documents as data
from evals.tasks.common.documents import Document
from evals.tasks.common.prompt import Frame, PromptBuilder, assemble
from evals.tasks.common.source import DataSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Control = Literal["own", "other", "none"]
CHARS_PER_TOKEN = 5
"""First guess of how much text holds enough tokens; doubled until it does."""
MARGIN = 256
"""Tokens between a cut through a text and what is used of it."""


class PerplexitySettings(TaskSettings):
    """scored: targets at the end of a window. running: tokens beside the context, targets included; at most half
    of the length, and at least one more than `scored`. context: the controls.

    anchor: where windows end. `end`: at the end of the document, then `stride` tokens earlier, ..., so that all
    lengths score the same tokens. `start`: the first window begins with the document (CEPE, YaRN), so lengths
    score different tokens. A number: at that token, then `stride` tokens later, ...; windows that would begin
    before the document are left out. windows: how many of a document. min_tokens: shorter documents are left out
    (at least the length itself; give the longest length of a sweep to compare on the same documents).

    aggregate: means over windows, over documents (of their means), or over tokens. bos: before each `window`, or
    only where a window begins a `document`. dataset: a set of the hub instead of --data-dir or the embedded text.
    """

    scored: int = Field(256, ge=1)
    running: int = Field(2048, ge=1)
    context: Annotated[tuple[Control, ...], data.Commas] = ("own", "other", "none")
    anchor: int | Literal["end", "start"] = "end"
    stride: int = Field(16384, ge=1)
    windows: int = Field(1, ge=1)
    min_tokens: int = Field(0, ge=0)
    aggregate: Literal["window", "document", "token"] = "window"
    bos: Literal["window", "document"] = "window"
    dataset: str | None = None

    @field_validator("context")
    @classmethod
    def _own_first(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        if not value:
            raise ValueError("name at least one of own, other, none")
        return tuple(dict.fromkeys(value))


@dataclass(frozen=True)
class Window:
    """A piece of a document: the tokens and how many bytes of text its targets are. at: of its end, in tokens from
    the end (negative or 0) or the start of the document, as the anchor counts."""

    document: Document
    at: int
    ids: list[int]
    target_bytes: int
    begins: bool


class Perplexity(Task):
    """nll in nats per token; `limit` counts windows, each of which gives one instance per control."""

    name = "perplexity"
    version = 1
    metric = "ppl"
    higher_is_better = False
    lengths = (1024, 2048, 4096, 8192)
    settings_model = PerplexitySettings

    def __init__(self, subset: str | None, settings: PerplexitySettings, source: DataSource) -> None:
        super().__init__(subset, settings, source)
        self.protocol = settings
        self._stores: dict[str, TokenStore] = {}  # by tokenizer, for all models and lengths

    def check(self) -> None:
        if self.protocol.dataset is not None and self.protocol.dataset not in data.HUB:
            raise unknown("dataset", self.protocol.dataset, data.HUB)
        documents = sum(1 for _, _ in zip(data.documents(self.data, self.protocol.dataset), range(2), strict=False))
        if "other" in self.protocol.context and documents < 2:
            raise UserError("The control `other` needs two documents: add one, or --set context=own,none.")

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Windows of the longest documents first, domains in turn. Raises UserError where no document is as long."""
        if length is None:
            raise UserError("The task perplexity needs a length: add --length 4k.")
        if self.protocol.scored + 2 > length:
            raise UserError(
                f"A length of {length} tokens is too short to score {self.protocol.scored}: choose a longer --length "
                f"or --set scored={max(length // 4, 1)}."
            )
        running = self._running(length)
        builder = PromptBuilder.of(tokenizer)
        store = self._stores.setdefault(builder.fingerprint, TokenStore(builder))
        reader = Reader(store, self.protocol, length)
        ordered = in_turn(self._documents)
        reader.read_ahead(ordered if limit is None else ordered[: -(-limit // self.protocol.windows)])
        made = 0
        for document in ordered:
            for window in reader.windows(document):
                if limit is not None and made == limit:
                    return
                made += 1
                yield from self._controls(builder, reader, ordered, window, running)
        if not made:
            raise UserError(
                f"No document has {reader.shortest} tokens, the longest possible length here is {reader.longest}: "
                "choose a shorter --length (or anchor, min_tokens) or give longer texts with --data-dir."
            )

    @cached_property
    def _documents(self) -> list[Document]:
        return list(data.documents(self.data, self.protocol.dataset))

    def _running(self, length: int) -> int:
        """Tokens beside the context."""
        return max(min(self.protocol.running, length // 2), self.protocol.scored + 1)

    def sample_tokens(self, length: int) -> int:
        """Of all readings of a window, one a control; without context only the running text is read."""
        return sum(self._running(length) if control == "none" else length for control in self.protocol.context)

    def _controls(
        self,
        builder: PromptBuilder,
        reader: Reader,
        documents: Sequence[Document],
        window: Window,
        running: int,
    ) -> Iterator[Instance]:
        scored = self.protocol.scored
        has_bos = builder.bos is not None and (self.protocol.bos == "window" or window.begins)
        prefix = [builder.bos] if has_bos and builder.bos is not None else []
        ids = window.ids[len(prefix) :]  # the BOS counts: all windows have `length` tokens
        frame = Frame(prefix, ids[-running:-scored], None, bos=len(prefix))
        own = ids[:-running]
        for control in self.protocol.context:
            context, other = own, None
            if control == "other":
                other, context = reader.other(documents, window.document, len(own))
            name = f"{window.document.id}@{window.at}"
            yield Instance(
                id=f"{name}-{control}",
                prompt=assemble(frame, [] if control == "none" else context),
                target=ids[-scored:],
                reference=None,
                group=window.document.id,
                meta={
                    "control": control,
                    "window": name,
                    "document": window.document.id,
                    "domain": window.document.domain,
                    "other": other,
                    "target_tokens": scored,
                    "target_bytes": window.target_bytes,
                },
            )

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        return {"nll": -sum(output.logprobs) / len(output.logprobs)}

    def summarize(self, samples: Sequence[dict[str, Any]]) -> dict[str, float]:
        """ppl and nll of the first control named (as a rule `own`), those of the other controls with their name,
        use_of_context, bits_per_byte, and ppl and use_of_context of each domain where there is more than one."""
        domains = sorted({sample["meta"]["domain"] for sample in samples})
        metrics = self._cell(samples)
        if len(domains) > 1:
            for domain in domains:
                part = self._cell([sample for sample in samples if sample["meta"]["domain"] == domain])
                chosen = ("ppl", "use_of_context")
                metrics |= {f"{name}/{domain}": part[name] for name in chosen if name in part}
        return metrics

    def _cell(self, samples: Sequence[dict[str, Any]]) -> dict[str, float]:
        by_control: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for sample in samples:
            by_control[sample["meta"]["control"]].append(sample)
        nll = {
            control: aggregate(by_control[control], self.protocol.aggregate)
            for control in self.protocol.context
            if by_control[control]
        }
        metrics: dict[str, float] = {}
        main = next(iter(nll), None)
        for control, value in nll.items():
            suffix = "" if control == main else f"_{control}"
            metrics |= {f"ppl{suffix}": math.exp(value), f"nll{suffix}": value}
        if "own" in nll and "other" in nll:
            metrics["use_of_context"] = nll["other"] - nll["own"]
        if main is not None:
            metrics["bits_per_byte"] = bits_per_byte(by_control[main])
        return metrics


@dataclass(frozen=True)
class Tokens:
    """ids (n,) of a document or of one end of it, and the span of characters (n, 2) behind each."""

    ids: np.ndarray
    spans: np.ndarray
    whole: bool


class Reader:
    """Cuts windows out of documents."""

    def __init__(self, store: TokenStore, protocol: PerplexitySettings, length: int) -> None:
        self._store = store
        self._protocol = protocol
        self._length = length
        self.longest = 0
        """Tokens of the longest document seen (or as many of it as were needed)."""

    @property
    def shortest(self) -> int:
        """Tokens that a document must have to give a window."""
        anchor = self._protocol.anchor if isinstance(self._protocol.anchor, int) else 0
        return max(self._length, self._protocol.min_tokens, anchor)

    def read_ahead(self, documents: Sequence[Document]) -> None:
        """Turn documents into ids on all cores: that is most of what a run does beside its models."""
        work = [(d, self._need, self._from_end) for d in documents]
        if "other" in self._protocol.context and not self._from_end:
            work += [(d, self._length, True) for d in documents]
        self._store.fill(work)

    @property
    def _from_end(self) -> bool:
        return self._protocol.anchor == "end"

    @property
    def _first(self) -> int:
        """Where the first window of a document ends."""
        return self._protocol.anchor if isinstance(self._protocol.anchor, int) else self._length

    @property
    def _need(self) -> int:
        """Tokens of a document that its windows take."""
        return max(self._first + (self._protocol.windows - 1) * self._protocol.stride, self.shortest)

    def windows(self, document: Document) -> Iterator[Window]:
        """The windows of a document, none where it is too short."""
        protocol, length, from_end, first = self._protocol, self._length, self._from_end, self._first
        steps = [i * protocol.stride for i in range(protocol.windows)]
        held = self._store.tokens(document, self._need, from_end=from_end)
        total = len(held.ids)
        self.longest = max(self.longest, total)
        if total < protocol.min_tokens:
            return
        for step in steps:
            end = -step if from_end else first + step
            stop = total + end if from_end else end
            if length <= stop <= total:
                text = document.text[held.spans[stop - protocol.scored, 0] : held.spans[stop - 1, 1]]
                ids = held.ids[stop - length : stop].tolist()
                begins = stop == length and held.spans[0, 0] == 0
                yield Window(document, end, ids, len(text.encode()), bool(begins))

    def other(self, documents: Sequence[Document], own: Document, tokens: int) -> tuple[str, list[int]]:
        """The last `tokens` tokens of the next document after `own` that has as many, one of the same domain if
        there is one. Raises UserError where no other document is long enough."""
        at = documents.index(own)
        later = [*documents[at + 1 :], *documents[:at]]
        for document in sorted(later, key=lambda document: document.domain != own.domain):
            ids = self._store.tokens(document, tokens, from_end=True).ids
            if len(ids) >= tokens:
                return document.id, ids[len(ids) - tokens :].tolist()
        raise UserError(
            f"The control `other` needs a second document of {tokens} tokens: add one, or --set context=own,none."
        )


class TokenStore:
    """Documents as ids. No more text is turned into ids than is asked for, and none twice."""

    def __init__(self, builder: PromptBuilder) -> None:
        self._builder = builder
        self._held: dict[tuple[str, bool], Tokens] = {}

    def fill(self, wanted: Sequence[tuple[Document, int, bool]]) -> None:
        """Hold what `tokens` will be asked for (document, need, from_end), all of it turned into ids at once."""
        new = [(d, _cut(d, need, end), end) for d, need, end in wanted if (d.id, end) not in self._held]
        texts = [document.text[start:stop] for document, (start, stop), _ in new]
        for (document, (start, _), end), encoded in zip(new, self._builder.encode_all(texts), strict=True):
            self._hold(document, end, start, *encoded)

    def tokens(self, document: Document, need: int, *, from_end: bool) -> Tokens:
        """At least `need` tokens at one end of the document, all of them where it has fewer.

        A few more are made where text is cut (at a line break), so that what is asked for does not feel the cut.
        """
        held = self._held.get((document.id, from_end))
        take = need
        while held is None or not (held.whole or len(held.ids) >= need + MARGIN):
            start, stop = _cut(document, take, from_end)
            held = self._hold(document, from_end, start, *self._builder.encode_with_spans(document.text[start:stop]))
            take *= 2
        return held

    def _hold(
        self, document: Document, from_end: bool, start: int, ids: list[int], spans: list[tuple[int, int]]
    ) -> Tokens:
        whole = start == 0 and (not spans or spans[-1][1] == len(document.text))
        held = Tokens(np.array(ids), np.array(spans).reshape(-1, 2) + start, whole)
        for end in (True, False) if whole else (from_end,):
            self._held[document.id, end] = held
        return held


def _cut(document: Document, need: int, from_end: bool) -> tuple[int, int]:
    """Span of characters at one end of a document that should have `need` tokens, up to a line break."""
    text, chars = document.text, need * CHARS_PER_TOKEN + MARGIN
    if chars >= len(text):
        return 0, len(text)
    cut = text.find("\n", len(text) - chars if from_end else chars)
    if from_end:
        return max(cut, 0), len(text)
    return 0, cut if cut >= 0 else len(text)


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


def aggregate(samples: Sequence[dict[str, Any]], how: str) -> float:
    """Mean nll of samples (all of one control) over windows, documents or tokens."""
    if how == "document":
        documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for sample in samples:
            documents[sample["meta"]["document"]].append(sample)
        means = [aggregate(group, "token") for group in documents.values()]
        return sum(means) / len(means)
    weights = [sample["meta"]["target_tokens"] if how == "token" else 1 for sample in samples]
    total = sum(w * sample["metrics"]["nll"] for w, sample in zip(weights, samples, strict=True))
    return total / sum(weights)


def bits_per_byte(samples: Sequence[dict[str, Any]]) -> float:
    """Bits of all targets over their bytes of UTF-8: comparable between vocabularies."""
    nats = sum(sample["metrics"]["nll"] * sample["meta"]["target_tokens"] for sample in samples)
    return nats / math.log(2) / sum(sample["meta"]["target_bytes"] for sample in samples)
