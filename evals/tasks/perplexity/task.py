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

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError, unknown
from evals.records.models import SampleRecord
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common import documents
from evals.tasks.common.documents import Document
from evals.tasks.common.prompt import Frame, assemble
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.source import DataSource
from evals.tasks.perplexity.settings import PerplexitySettings
from evals.tasks.perplexity.summary import summarize
from evals.tasks.perplexity.tokens import TokenStore
from evals.tasks.perplexity.windows import Copies, Reader, Window, in_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Perplexity(Task):
    """nll in nats per token; `limit` counts windows, each of which gives one instance per control."""

    settings: PerplexitySettings
    settings_model = PerplexitySettings
    name = "perplexity"
    version = 2  # 2: every row is a document of its own; `other` shares no text with the window
    metric = "ppl"
    higher_is_better = False
    lengths = (1024, 2048, 4096, 8192)

    def __init__(self, subset: str | None, settings: PerplexitySettings, data: DataSource) -> None:
        super().__init__(subset, settings, data)
        self._stores: dict[str, TokenStore] = {}  # by tokenizer, for all models and lengths
        self._copies = Copies()

    def check(self) -> None:
        if self.settings.dataset is not None and self.settings.dataset not in documents.HUB:
            raise unknown("dataset", self.settings.dataset, documents.HUB)
        different = len({document.text for document in self._documents})
        if "other" in self.settings.context and different < 2:
            copies = f", and all {len(self._documents)} are the same" if len(self._documents) > 1 else ""
            raise UserError(f"The control `other` needs two documents{copies}: add one, or --set context=own,none.")

    def check_length(self, length: int | None) -> None:
        if length is None:
            raise UserError("The task perplexity needs a length: add --length 4k.")
        if self.settings.scored + 2 > length:
            raise UserError(
                f"A length of {length} tokens is too short to score {self.settings.scored}: choose a longer --length "
                f"or --set scored={max(length // 4, 1)}."
            )
        anchor = self.settings.anchor
        if isinstance(anchor, int) and anchor + (self.settings.windows - 1) * self.settings.stride < length:
            raise UserError(
                f"Windows of {length} tokens that end at token {anchor} would begin before their document: choose a "
                "shorter --length or a larger anchor."
            )

    def tried(self, length: int) -> bool:
        """Always: as much text is read as a window has, and the run finds its tokens made."""
        return True

    def check_room(self, tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> None:
        """The first window, with all its controls."""
        for _ in self.instances(tokenizer, length, 1, seed):
            pass

    def files(self) -> Sequence[Path]:
        return documents.files(self.data)

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Windows of the longest documents first, domains in turn. Raises UserError where no document is as long."""
        self.check_length(length)
        assert length is not None
        running = self._running(length)
        builder = PromptBuilder.of(tokenizer)
        store = self._stores.setdefault(builder.fingerprint, TokenStore(builder))
        reader = Reader(store, self._copies, self.settings, length)
        ordered = in_turn(self._documents)
        made = 0
        for document in ordered:
            for window in reader.windows(document):
                if limit is not None and made == limit:
                    return
                made += 1
                yield from self._controls(builder, reader, ordered, window, running)
        if not made:
            raise UserError(
                f"No document is long enough, the longest possible length here is {reader.longest}: choose a shorter "
                "--length (or anchor, min_tokens) or give longer texts with --data-dir."
            )

    @cached_property
    def _documents(self) -> list[Document]:
        return list(documents.documents(self.data, self.settings.dataset))

    def _running(self, length: int) -> int:
        """Tokens of a window that are not context."""
        return max(min(self.settings.running, length // 2), self.settings.scored + 1)

    def sample_tokens(self, length: int) -> int:
        """One reading of a window per control; without context only the running text is read."""
        return sum(self._running(length) if control == "none" else length for control in self.settings.context)

    def query_tokens(self, length: int) -> int:
        return self._running(length)

    def answer_tokens(self) -> int:
        return 0

    def _controls(
        self,
        builder: PromptBuilder,
        reader: Reader,
        documents: Sequence[Document],
        window: Window,
        running: int,
    ) -> Iterator[Instance]:
        scored = self.settings.scored
        has_bos = builder.bos is not None and (self.settings.bos == "window" or window.begins)
        prefix = [builder.bos] if has_bos and builder.bos is not None else []
        ids = window.ids[len(prefix) :]  # the BOS counts: all windows have `length` tokens
        frame = Frame(prefix, ids[-running:-scored], None, bos=len(prefix))
        own = ids[:-running]
        if not own and len(self.settings.context) > 1:
            raise UserError(
                f"Windows of {len(window.ids)} tokens that score {scored} have no context for the controls: choose a "
                f"longer --length or --set scored={max(len(window.ids) // 4, 1)}, or leave them out, --set context=own."
            )
        for control in self.settings.context:
            context, other = own, None
            if control == "other":
                other, context = reader.other(documents, window, len(own))
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
                    "target_bytes": len(window.target.encode()),
                },
            )

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        return {"nll": -sum(output.logprobs) / len(output.logprobs)}

    def summarize(self, samples: Sequence[SampleRecord]) -> dict[str, float]:
        return summarize(samples, self.settings)
