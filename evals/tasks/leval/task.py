"""L-Eval (An et al. 2024, arXiv:2307.11088): 20 data sets with several questions on each long document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from evals.records.models import SampleRecord
from evals.tasks.base import Instance, Output
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.common.text_f1 import qa_f1
from evals.tasks.leval import rows, scores, wording
from evals.tasks.leval.rivals import Rivals, better, rivals_file
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.judged import JudgedTask, JudgeSettings, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_NEW_TOKENS = 512
FOUR_CHOICES = ("quality", "tpo")


class LEvalSettings(JudgeSettings):
    """How the questions are put, and what the judge compares with."""

    wording: Literal["official", "own"] = Field("official", description="official texts out of the clone, or own ones")
    max_new_tokens: int = Field(MAX_NEW_TOKENS, ge=1, description="answer budget")
    rival: str = Field(
        "llm_turbo_eval/turbo-16k-0613",
        pattern=r"^[\w.-]+/[\w.-]+$",
        exclude=True,
        description="whose published answers the judge compares with: a file below Predictions/ of the clone without "
        "its ending",
    )


class LEval(JudgedTask):
    """The questions that are scored without a judge. --length is prompt + answer; without it, nothing is cut."""

    settings: LEvalSettings
    settings_model = LEvalSettings
    name: ClassVar[str] = "leval"
    subsets: ClassVar[Sequence[str]] = (*rows.CLOSED, *rows.OPEN)
    judged_rows: ClassVar[bool] = False
    """Whether the rows are those that are to be judged."""

    @property
    def chance(self) -> float:
        return {"sci_fi": 0.5}.get(self.dataset, 0.25 if self.dataset in FOUR_CHOICES else 0.0)

    @cached_property
    def _texts(self) -> dict[str, str]:
        return dict(wording.texts(self.settings.wording == "own", self.data))

    @property
    def drawn(self) -> bool:
        return False

    def check(self) -> None:
        rows.locate(self.dataset, self.data)
        _ = self._texts

    def check_length(self, length: int | None) -> None:
        self.settings.check_overlength(self._budget(length))

    def files(self) -> Sequence[Path]:
        found = rows.brought(self.dataset, self.data)
        return [found.path] if found else []

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The questions in file order. seed is not used: nothing is random."""
        return first(self._all(tokenizer, self._budget(length)), limit)

    def _all(self, tokenizer: PreTrainedTokenizerBase, budget: int | None) -> Iterator[Instance]:
        builder, file = self.settings.builder(tokenizer), rows.locate(self.dataset, self.data)
        chat = self.settings.wraps(tokenizer, officially=True)
        for line, row in rows.read(file, self.judged_rows):
            place, document = f"{file}, line {line}", one_document(row.input)
            for number, (question, reference) in enumerate(zip(row.instructions, row.outputs, strict=True), 1):
                text = wording.prompt(self._texts, self.dataset, question, reference)
                with errors_at(place):
                    prompt = builder.build(
                        text.before,
                        row.input,
                        text.after,
                        budget=budget,
                        side="left" if self.dataset == "codeU" else "right",
                        chat=chat,
                        question=question,
                        template=text.template,
                    )
                instance = Instance(
                    id=f"{line:04d}-{number:02d}",
                    prompt=prompt,
                    max_new_tokens=self.settings.max_new_tokens,
                    stop=stop_at_end(tokenizer),
                    thinking=self.settings.reading(builder, chat),
                    reference=reference,
                    group=min(document),
                    meta={"question": question, "evaluation": row.evaluation, "chat": chat},
                    holds=document,
                )
                yield self.settings.fitting(instance, budget, place)

    def _budget(self, length: int | None) -> int | None:
        return self.settings.prompt_budget(length, self.settings.max_new_tokens, "L-Eval")

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score by the rule of the row; ROUGE sets also `rouge1` and `rouge2`, choices `unparsed`."""
        return scores.score(self.dataset, instance.meta["evaluation"], output.text, instance.reference)

    def judge_requests(self, sample: SampleRecord) -> Sequence[Messages]:
        """None: these answers are scored by rule."""
        return []

    def judged(self, replies: Sequence[str]) -> float | None:
        return better(replies)


class LEvalJudged(LEval):
    """The open-ended questions that are for a judge: is the answer better than a rival's, asked in both orders?"""

    name: ClassVar[str] = "leval-judged"
    metric: ClassVar[str] = "proxy_rouge_l"
    subsets: ClassVar[Sequence[str]] = rows.OPEN
    judged_rows: ClassVar[bool] = True

    def check(self) -> None:
        super().check()
        if self.settings.judge is not None:
            _ = self._rivals

    @cached_property
    def _rivals(self) -> Rivals:
        return Rivals.read(rivals_file(self.data, self.settings.rival))

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """Proxies, not L-Eval's score, which is a judge's: ROUGE-L and F1 of the words."""
        return {
            "proxy_rouge_l": scores.rouge(output.text, instance.reference)["score"],
            "proxy_f1": qa_f1(output.text, instance.reference),
        }

    def judge_requests(self, sample: SampleRecord) -> Sequence[Messages]:
        """Two comparisons with the rival, our answer first and second; none where the rival was not asked this."""
        return self._rivals.comparisons(self._texts, str(sample.meta["question"]), str(sample.reference), sample)
