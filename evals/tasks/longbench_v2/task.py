"""LongBench v2 (Bai et al., ACL 2025): 503 four-choice questions, answered in a sentence that is parsed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.longbench_v2 import rows
from evals.tasks.longbench_v2.prompts import render, template
from evals.tasks.longbench_v2.scores import parse_answer
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.official import OfficialSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 503
MAX_NEW_TOKENS = 128
OFFICIAL_BUDGET = 120_000
"""Tokens of a prompt without --length."""


class LongBenchV2(Task):
    """Zero-shot generate and parse. Greedy, where the official script samples at temperature 0.1."""

    name = "longbench-v2"
    version = 2
    settings_model = OfficialSettings
    settings: OfficialSettings

    @property
    def chance(self) -> float:
        return 0.25  # four choices

    @property
    def drawn(self) -> bool:
        return False

    def check(self) -> None:
        template()
        rows.locate(self.data)

    def check_length(self, length: int | None) -> None:
        self._budget(length)

    def files(self) -> Sequence[Path]:
        found = rows.brought(self.data)
        return [found.path] if found else []

    def sample_count(self) -> int:
        return SAMPLES

    def answer_tokens(self) -> int:
        return MAX_NEW_TOKENS

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The rows in file order. seed is not used: nothing is random."""
        builder = self.settings.builder(tokenizer)
        chat = self.settings.wraps(tokenizer, officially=True)
        budget, file = self._budget(length), rows.locate(self.data)
        for number, row in first(rows.read(file), limit):
            before, after, question = render(row)
            with errors_at(f"{file}, row {number}"):
                prompt = builder.build(
                    before,
                    row.context.strip(),
                    after,
                    budget=budget,
                    rule="uneven",
                    chat=chat,
                    question=question,
                    template=template(),
                )
            instance = Instance(
                id=f"{number:04d}",
                prompt=prompt,
                max_new_tokens=MAX_NEW_TOKENS,
                stop=stop_at_end(tokenizer),
                thinking=self.settings.reading(builder, chat),
                reference=row.answer,
                meta={
                    "row": row.id,
                    "domain": row.domain,
                    "sub_domain": row.sub_domain,
                    "difficulty": row.difficulty,
                    "length": row.length,
                    "chat": chat,
                },
                holds=one_document(row.context),
            )
            yield self.settings.fitting(instance, budget, f"{file}, row {number}")

    def _budget(self, length: int | None) -> int:
        budget = self.settings.prompt_budget(length, MAX_NEW_TOKENS, "LongBench v2")
        return OFFICIAL_BUDGET if budget is None else budget

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score, again under the row's difficulty and length class, and unparsed: 1 where no answer was found."""
        answer = parse_answer(output.text)
        right = float(answer == instance.reference)
        difficulty, length = instance.meta["difficulty"], instance.meta["length"]
        return {
            "score": right,
            f"score_{difficulty}": right,
            f"score_{length}": right,
            "unparsed": float(answer is None),
        }
