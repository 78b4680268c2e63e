"""LongBench v1 and LongBench-E with official prompts, truncation, stop rule and scores (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods.base import Stop
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.files import RowFile
from evals.tasks.common.fitting import explicit_budget
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end, stop_ids
from evals.tasks.common.view import View
from evals.tasks.longbench import datasets, metrics, rows
from evals.tasks.longbench.templates import parts, template
from evals.tasks.longbench.views import views
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.official import OfficialSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_LENGTH = 640
"""Shortest --length: 125 tokens of prompt under the official rule."""


def score(dataset: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] | None = None) -> float:
    """Official score in 0..1 of a raw prediction, official post-processing included: the best of its answers.

    Raises UserError for an unknown data set, an empty list of answers, or missing class names (trec, lsht).
    """
    return metrics.score(dataset, prediction, answers, all_classes).value


class LongBench(Task):
    """The 21 data sets. --length is the window of which the official rule leaves a part to the prompt."""

    name = "longbench"
    version = 2
    subsets = tuple(datasets.DATASETS)
    settings_model = OfficialSettings
    settings: OfficialSettings
    suffix = ""
    """What ends the names of the data files."""

    @property
    def inseparable(self) -> str | None:
        return "In lcc the context is the code to go on with" if self.dataset == "lcc" else None

    @property
    def drawn(self) -> bool:
        return False

    def check(self) -> None:
        template(self.dataset)
        self._file()

    def check_length(self, length: int | None) -> None:
        self.settings.check_overlength(self._budget(length))

    def _budget(self, length: int | None) -> int | None:
        return prompt_budget(length, self.settings.max_prompt_tokens, self.answer_tokens())

    def files(self) -> Sequence[Path]:
        found = rows.brought(self.dataset + self.suffix, self.data)
        return [found.path] if found else []

    def answer_tokens(self) -> int:
        return datasets.get(self.dataset).max_new_tokens

    def _file(self) -> RowFile:
        return rows.locate(self.dataset + self.suffix, self.data)

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The rows in file order. seed is not used: nothing is random."""
        known = datasets.get(self.dataset)
        builder = self.settings.builder(tokenizer)
        budget = self._budget(length)
        file = self._file()
        chat = self.settings.wraps(tokenizer, known.chat)
        stop, thinking = stop_rule(self.dataset, tokenizer), self.settings.reading(builder, chat)
        for line, row in first(rows.read(self.dataset, file), limit):
            text = parts(self.dataset, row.context, row.input)
            with errors_at(f"{file}, line {line}"):
                prompt = builder.build(
                    text.before,
                    text.context,
                    text.after,
                    budget=budget,
                    rule="even",
                    chat=chat,
                    question=text.question,
                    template=template(self.dataset),
                )
            instance = Instance(
                id=f"{line:04d}",
                prompt=prompt,
                max_new_tokens=known.max_new_tokens,
                stop=stop,
                thinking=thinking,
                reference=row.answers,
                meta=self._meta(row, chat),
                holds=one_document(row.context),
            )
            yield self.settings.fitting(instance, budget, f"{file}, line {line}")

    def _meta(self, row: rows.LongBenchRow, chat: bool) -> dict[str, object]:
        meta: dict[str, object] = {"row": row.id, "length": row.length, "chat": chat}
        if datasets.get(self.dataset).metric == "classification":
            meta["all_classes"] = row.all_classes
        return meta

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score; for ROUGE sets also recursion_limit, 1 where the official scorer's recursion limit made a 0."""
        classes = instance.meta.get("all_classes")
        result = metrics.score(self.dataset, output.text, instance.reference, classes)
        values = {"score": result.value}
        if datasets.get(self.dataset).metric.startswith("rouge"):
            values["recursion_limit"] = float(result.recursion)
        return values

    @classmethod
    def views(cls, scores: Mapping[str, float]) -> list[View]:
        return views(scores)


class LongBenchE(LongBench):
    """LongBench-E: 13 sets of even length distribution, each with three scores by the rows' stored length."""

    name = "longbench-e"
    subsets = datasets.LONGBENCH_E
    suffix = "_e"

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        values = super().evaluate(instance, output)
        return {**values, f"score_{datasets.bucket(instance.meta['length'])}": values["score"]}

    @classmethod
    def views(cls, scores: Mapping[str, float]) -> list[View]:
        """None: LongBench-E is read by length, and its README gives no average over data sets."""
        return []


def prompt_budget(length: int | None, max_prompt_tokens: int | None, max_new_tokens: int) -> int | None:
    """Tokens of the whole prompt; None where nothing is cut.

    The official budgets are 3500, 7500, 15500 and 31500 for windows of 4K, 8K, 16K and 32K: 1000 for every 1024
    tokens, less 500. That leaves room for the longest answer (512) at every length.
    Raises UserError where the length is too short.
    """
    if max_prompt_tokens is not None:
        return explicit_budget(length, max_prompt_tokens, max_new_tokens)
    if length is None:
        return None
    if length < MIN_LENGTH:
        raise UserError(f"LongBench needs a --length of {MIN_LENGTH} or more, not {length}.")
    return length * 1000 // 1024 - 500


def stop_rule(dataset: str, tokenizer: PreTrainedTokenizerBase) -> Stop:
    """End of text. samsum also ends at a newline, after one token at least: the official guard against a model
    that goes on with the next dialogue (the last id of "\\n" encoded alone)."""
    if dataset != "samsum":
        return stop_at_end(tokenizer)
    newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
    return Stop(ids=stop_ids(tokenizer) | {newline}, min_new_tokens=1)
