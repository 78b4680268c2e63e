"""AA-LCR (Artificial Analysis 2025): 100 questions on sets of real documents of some 100K tokens.

The official score is a judge's. Without one, two proxies compare words; their names say that they are none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evals.records.models import SampleRecord
from evals.tasks.aa_lcr import rows
from evals.tasks.aa_lcr.prompts import PROMPT, JudgeForm, judge_messages, verdict
from evals.tasks.base import Instance, Output
from evals.tasks.common.prompt_builder import fill
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.common.text_f1 import normalize_en, qa_f1
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.judged import JudgedTask, JudgeSettings, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AaLcrSettings(JudgeSettings):
    """What the judge is asked, and how long an answer may be."""

    judge_form: JudgeForm = Field(
        "v1.1",
        exclude=True,
        description="text and reply of the judge, by version of the data card: v1.1 (rules, replies in JSON) or v1.0",
    )
    max_new_tokens: int = Field(1024, ge=1, description="answer budget; officially 16384")


class AaLcr(JudgedTask):
    """The rows of a file, in its order. --length is prompt + answer; without it, nothing is cut."""

    settings: AaLcrSettings
    settings_model = AaLcrSettings
    name: ClassVar[str] = "aa-lcr"
    metric: ClassVar[str] = "proxy_f1"

    @property
    def drawn(self) -> bool:
        return False

    def check(self) -> None:
        rows.locate(self.data)

    def check_length(self, length: int | None) -> None:
        self.settings.check_overlength(self._budget(length))

    def files(self) -> Sequence[Path]:
        found = rows.brought(self.data)
        return [path for path in (found.table, found.texts) if path] if found else []

    def sample_count(self) -> int:
        return 100

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The rows in file order. seed is not used: nothing is random."""
        builder, budget = self.settings.builder(tokenizer), self._budget(length)
        chat = self.settings.wraps(tokenizer, officially=True)
        for number, (place, row) in enumerate(first(rows.read(rows.locate(self.data)), limit), 1):
            before, after = fill(PROMPT, question=row.question)
            with errors_at(place):
                prompt = builder.build(
                    before, row.context, after, budget=budget, chat=chat, question=row.question, template=PROMPT
                )
            documents = one_document(row.context)
            instance = Instance(
                id=f"{number:04d}",
                prompt=prompt,
                max_new_tokens=self.settings.max_new_tokens,
                stop=stop_at_end(tokenizer),
                thinking=self.settings.reading(builder, chat),
                reference=row.answer,
                group=min(documents),
                meta={"question": row.question, "chat": chat},
                holds=documents,
            )
            yield self.settings.fitting(instance, budget, place)

    def _budget(self, length: int | None) -> int | None:
        return self.settings.prompt_budget(length, self.settings.max_new_tokens, "AA-LCR")

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """Proxies, not AA-LCR's score. proxy_f1: F1 of the words of answer and official answer. proxy_exact: 1 where
        they are the same words in the same order, but for case, articles and punctuation.
        """
        same = normalize_en(output.text) == normalize_en(instance.reference)
        return {"proxy_f1": qa_f1(output.text, instance.reference), "proxy_exact": float(same)}

    def judge_requests(self, sample: SampleRecord) -> Sequence[Messages]:
        question, official = str(sample.meta["question"]), str(sample.reference)
        return [judge_messages(self.settings.judge_form, question, official, sample.output.text)]

    def judged(self, replies: Sequence[str]) -> float | None:
        return verdict(self.settings.judge_form, replies[0])
