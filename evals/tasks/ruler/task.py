"""RULER: thirteen synthetic tasks at any length with any tokenizer (Hsieh et al. 2024, arXiv:2404.06654).

Prompt + answer budget never exceed the length. Official code: 500 samples, seed 42, lengths 4K to 128K; texts by
hash from lm-eval (`evals.tasks.ruler.templates`). An instance depends on (task, seed, length, index, tokenizer) alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.generated import Family, Sample, fitted
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.ruler import data, qa
from evals.tasks.ruler.aggregation import CommonWords, FrequentWords
from evals.tasks.ruler.niah import Niah
from evals.tasks.ruler.templates import Revision, template
from evals.tasks.ruler.tracking import VariableTracking
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 500
"""Official number of samples of a task at a length."""

NIAH = {
    "niah_single_1": Niah("noise"),
    "niah_single_2": Niah("essay"),
    "niah_single_3": Niah("essay", value="uuids"),
    "niah_multikey_1": Niah("essay", keys=4),
    "niah_multikey_2": Niah("needle"),
    "niah_multikey_3": Niah("needle", key="uuids", value="uuids"),
    "niah_multivalue": Niah("essay", values=4),
    "niah_multiquery": Niah("essay", keys=4, queries=4),
}
QUESTIONS = ("qa_1", "qa_2")


class RulerSettings(ChatSettings):
    """Which prompts are used."""

    chat: bool = Field(
        False,
        description="wrap the prompt in the tokenizer's chat template; the answer prefix then begins the reply",
    )
    prompts: Revision = Field(
        "2025-06",
        description="revision of the official texts and formats: 2025-06 (current) or 2024-12 (paper, lm-eval)",
    )


class Ruler(Task):
    """One of the thirteen tasks."""

    settings: RulerSettings
    settings_model = RulerSettings
    name: ClassVar[str] = "ruler"
    version: ClassVar[int] = 2
    metric: ClassVar[str] = "score"
    subsets: ClassVar[Sequence[str]] = (*NIAH, "vt", "cwe", "fwe", "qa_1", "qa_2")
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768, 65536, 131072)

    def check(self) -> None:
        if self.subset in QUESTIONS:
            _ = self._documents
        elif self._niah and self._niah.haystack == "essay":
            _ = self._essay

    def files(self) -> Sequence[Path]:
        if self.subset in QUESTIONS:
            find = data.squad if self.subset == "qa_1" else data.hotpotqa
        elif self._niah and self._niah.haystack == "essay":
            find = data.essay_path
        else:
            return []
        try:
            return [find(self.data.data_dir)]
        except UserError:  # `check` says what is missing
            return []

    @property
    def _niah(self) -> Niah | None:
        return NIAH.get(self.subset or "")

    @cached_property
    def _essay(self) -> list[str]:
        return data.essays(self.data.data_dir)

    @cached_property
    def _documents(self) -> qa.Documents:
        if self.subset == "qa_1":
            return qa.read_squad(data.squad(self.data.data_dir))
        return qa.read_hotpotqa(data.hotpotqa(self.data.data_dir))

    def _family(self, length: int) -> Family:
        if self._niah:
            return replace(self._niah, essay=self._essay, split={}) if self._niah.haystack == "essay" else self._niah
        match self.subset:
            case "vt":
                return VariableTracking(self.settings.prompts)
            case "cwe":
                return CommonWords(length, self.settings.prompts)
            case "fwe":
                return FrequentWords(length, self.settings.prompts)
        return self._documents

    def made_to(self, length: int) -> bool:
        return True

    def sample_count(self) -> int:
        return SAMPLES

    def contexts(self, samples: int) -> int | None:
        return None if self.subset in QUESTIONS else samples

    def answer_tokens(self) -> int:
        return 128  # the longest budget of its families

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of RULER always has a length"
        family = self._family(length)
        count = min(SAMPLES if limit is None else limit, family.count or SAMPLES)
        builder = self.settings.builder(tokenizer)
        thinking = self.settings.reading(builder, self.settings.chat)

        def build(sample: Sample, budget: int | None = None) -> Prompt:
            return builder.build(
                sample.before,
                sample.context,
                sample.lead + sample.question,
                budget=budget,
                question=sample.question,
                answer=sample.answer_prefix,
                chat=self.settings.chat,
                template=template(family.family, self.settings.prompts).full,
            )

        key = f"{self.subset}:{seed}:{length}"
        for index, (sample, prompt) in enumerate(fitted(family, build, key, length, count)):
            yield Instance(
                id=str(index),
                prompt=prompt,
                max_new_tokens=family.new_tokens,
                stop=stop_at_end(tokenizer),
                thinking=thinking,
                reference=sample.answers,
                group=str(index),
                meta=sample.meta,
                other=self._without_answer(builder, sample, f"{key}:{index}:other", index),
            )

    def _without_answer(
        self, builder: PromptBuilder, sample: Sample, key: str, index: int
    ) -> Callable[[], list[int]] | None:
        """Makes a context as long, of documents that do not answer a question of `QUESTIONS`: long contexts of other
        samples have most documents of the set, those with the answer among them.
        """
        if self.subset not in QUESTIONS:
            return None
        size = sample.context.count("\n\n") + 1
        return lambda: builder.encode(self._documents.without(random.Random(key), size, index), after="\n")

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        return {"score": score(self.subset or "", output.text, instance.reference)}


def score(task: str, prediction: str, answers: Sequence[str]) -> float:
    """The official score in 0..1: answers found in the prediction, whatever their case.

    All tasks but question answering: the fraction of the answers (string_match_all). Question answering: 1 if any
    answer is found (string_match_part).
    """
    text = re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip().lower()
    found = [answer.lower() in text for answer in answers]
    return float(any(found)) if task in QUESTIONS else sum(found) / len(found)
