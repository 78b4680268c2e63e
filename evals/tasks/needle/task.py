"""Needle in a haystack (Kamradt 2023, github.com/gkamradt/LLMTest_NeedleInAHaystack): a fact is hidden at a known
depth of a long text and asked for.

Kept from there: a haystack of sorted texts that repeats, insertion on token ids after the end of a sentence, the
spacing of several needles, the classic needle. Changed: answers are 7-digit numbers of random keys and compared
exactly, so the score needs neither a judge model nor knowledge of the world; the haystack is trimmed so that prompt
and answer together have the length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common import documents
from evals.tasks.common.haystack import Haystack
from evals.tasks.common.prompt import Frame, Prompt, assemble
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.source import DataSource
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.needle.facts import NEW_TOKENS, TEMPLATES, Fact, draw
from evals.tasks.needle.haystack import depth_of, insert, spread
from evals.tasks.needle.scores import score_number, score_sentence
from evals.tasks.settings.chat import ChatSettings
from evals.tasks.settings.commas import Numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NeedleSettings(ChatSettings):
    """What is hidden where."""

    depths: Numbers = Field(
        (0, 25, 50, 75, 100), description="percent of the haystack before the (first) needle; 0,50,100 is three depths"
    )
    samples: int = Field(1, ge=1, description="contexts per depth; not given: one, or as many as --limit asks for")
    needles: int = Field(
        1,
        ge=1,
        le=32,
        description="how many are in a context, the first at the depth, the others spread evenly after it",
    )
    questions: int = Field(1, ge=1, description="how many of the needles are asked for on one read")
    template: Literal["city", "item", "classic"] = Field(
        "city", description="the sentence that is hidden; classic is the original's"
    )
    chat: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")

    @model_validator(mode="after")
    def _consistent(self) -> NeedleSettings:
        if not self.depths or any(not 0 <= depth <= 100 for depth in self.depths):
            raise ValueError("depths are percentages from 0 to 100, at least one")
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions need as many needles: set needles={self.questions}")
        if self.template == "classic" and self.needles > 1:
            raise ValueError("the classic needle is one sentence: set needles=1")
        return self


class Needle(Task):
    """A grid of depths at one length; heat maps put the lengths side by side."""

    settings: NeedleSettings
    settings_model = NeedleSettings
    name = "needle"
    version = 2  # 2: 1,234,567 and full-width digits are the number 1234567; strict_match is the score of version 1
    metric = "exact_match"
    lengths = (1024, 2048, 4096, 8192)

    def __init__(self, subset: str | None, settings: NeedleSettings, data: DataSource) -> None:
        super().__init__(subset, settings, data)
        self.wording = TEMPLATES[settings.template]
        self._haystacks: dict[tuple[str, int], Haystack] = {}  # by tokenizer and sample, for all lengths

    @property
    def inseparable(self) -> str | None:
        return "The classic needle is the same in every context" if self.settings.template == "classic" else None

    def check(self) -> None:
        documents.verify(self.data)

    def files(self) -> Sequence[Path]:
        return documents.files(self.data)

    def made_to(self, length: int) -> bool:
        return True

    def sample_count(self) -> int:
        return len(set(self.settings.depths)) * self.settings.samples * self.settings.questions

    @property
    def drawn(self) -> bool:
        return self.settings.template != "classic"

    def contexts(self, samples: int) -> int:
        return -(-samples // self.settings.questions)

    @property
    def endless(self) -> bool:
        return "samples" not in self.settings.model_fields_set

    def answer_tokens(self) -> int:
        return NEW_TOKENS[self.settings.template]

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Depths in an order whose every start is spread over the grid, so that a small limit is too; then the
        next sample of each. A context that has no room for its needles and questions is refused.
        """
        if length is None:
            raise UserError("The task needle needs a length: add --length 4k.")
        builder = self.settings.builder(tokenizer)
        made = 0
        for sample in count() if self.endless and limit is not None else range(self.settings.samples):
            key = builder.fingerprint, sample
            texts = self._haystacks.setdefault(key, Haystack(builder, self.data, first=sample))
            for depth in spread(self.settings.depths):
                facts = draw(self.settings.template, self.settings.needles, seed, length, depth, sample)
                for instance in self._ask(builder, texts, facts, length, depth, sample):
                    if limit is not None and made == limit:
                        return
                    made += 1
                    yield instance

    def _ask(
        self, builder: PromptBuilder, texts: Haystack, facts: list[Fact], length: int, depth: float, sample: int
    ) -> Iterator[Instance]:
        """One context, and a question about each of the first needles; refused where the length has no room."""
        frames = [self._frame(builder, fact.key) for fact in facts[: self.settings.questions]]
        needles = [builder.encode(" " + fact.sentence, after=".") for fact in facts]
        new_tokens = NEW_TOKENS[self.settings.template]
        fixed = max(map(len, frames)) + new_tokens + sum(map(len, needles))
        if length <= fixed:
            reason = (
                f"A length of {length} tokens is too short for the needle task: needles, question and answer take "
                f"{fixed}, so choose a longer --length or fewer needles."
            )
            yield from self._refused(facts, depth, sample, reason)
            return
        hay = texts.ids(length - fixed)
        context, positions = insert(hay, needles, depth, texts.ends)
        stop = stop_at_end(builder.tokenizer)
        reading = self.settings.reading(builder, self.settings.chat)
        for index, (frame, fact) in enumerate(zip(frames, facts, strict=False)):
            start = positions[index]
            prompt = assemble(frame, context, budget=length, evidence=(start, start + len(needles[index])))
            yield Instance(
                id=_name(depth, sample, index),
                prompt=prompt,
                max_new_tokens=new_tokens,
                stop=stop,
                thinking=reading,
                reference=fact.value,
                group=f"depth{depth:g}-sample{sample}",
                meta={
                    "depth": depth_of(index, len(needles), depth),
                    "depth_percent": round(100 * start / len(context), 2),
                    "needle": index,
                    "key": fact.key,
                    "token": len(frame.prefix) + start,
                },
                holds=frozenset(fact.value for fact in facts),
            )

    def _refused(self, facts: list[Fact], depth: float, sample: int, reason: str) -> Iterator[Instance]:
        for index, fact in enumerate(facts[: self.settings.questions]):
            yield Instance(
                id=_name(depth, sample, index),
                prompt=Prompt([], [], []),
                reference=fact.value,
                group=f"depth{depth:g}-sample{sample}",
                refused=reason,
                meta={"depth": depth_of(index, len(facts), depth), "needle": index, "key": fact.key},
            )

    def _frame(self, builder: PromptBuilder, key: str) -> Frame:
        question = self.wording.question.format(key=key)
        stem = self.wording.stem.format(key=key)
        if self.settings.chat:
            return builder.frame("", f"\n\n{question}", chat=True, question=question, answer=stem.lstrip())
        return builder.frame("", f"\n\nQuestion: {question}\nAnswer:", question=question, answer=stem)

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """Scores of the first number in the answer (`score_number`); of the classic needle, `score_sentence`."""
        if self.settings.template == "classic":
            return score_sentence(output.text, instance.reference)
        return score_number(output.text, instance.reference)


def _name(depth: float, sample: int, needle: int) -> str:
    return f"depth{depth:g}-sample{sample}-needle{needle}"
