"""BABILong (Kuratov et al. 2024, arXiv:2406.10149): facts of a small world, scattered in a long text, and a question.

`source=generated` (the default): our own facts in the user's own text. An instance depends on (task, facts, start,
seed, length, index, tokenizer, texts) alone. `source=official`: the published rows. Prompts (by hash) and score are the
published ones in both.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from evals.errors import UserError
from evals.tasks.babilong import rows, scores
from evals.tasks.babilong.prompts import BARE, template
from evals.tasks.babilong.stories import KINDS, draw
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common import documents as data
from evals.tasks.common.files import RowFile
from evals.tasks.common.haystack import Haystack, hide, places, shared, window
from evals.tasks.common.prompt import Prompt, PromptBuilder, assemble, fill
from evals.tasks.common.rows import first, naming
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.settings.chat import ChatSettings
from evals.tasks.settings.controls import named
from evals.tasks.settings.whole_rows import refused_if_longer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
"""Rows of a published set; as many are generated."""
LEAST = {"qa1": 1, "qa2": 2, "qa3": 3, "qa4": 2, "qa5": 2}
"""Fewest facts that a question can be asked about."""
MOST = 200


class BabilongSettings(ChatSettings):
    """source: `generated` facts in your own text (--data-dir, else Python's own help), or the `official` rows. set:
    which of them, 0k to 1M; not given: the longest that --length can hold. facts: how many are generated (1 to
    200; qa4 has 2); not given: drawn as in the originals. start: percent of the text before the first fact; the higher,
    the easier for methods with a window. prompt: `official`, or `bare` without instruction and examples. begin: begin
    the answer with "Answer:" as the examples do, for base models. cloze: begin it with the deciding fact itself, up to
    the place that is asked for: a model need only find the sentence and copy its end (generated qa1). max_new_tokens:
    answer budget, officially 20. chat: wrap the prompt in the tokenizer's chat template.
    """

    source: Literal["generated", "official"] = "generated"
    set: str | None = None
    facts: int | None = Field(None, ge=1, le=MOST)
    start: float = Field(0, ge=0, le=100)
    prompt: Literal["official", "bare"] = "official"
    begin: bool = False
    cloze: bool = False
    max_new_tokens: int = Field(20, ge=1)
    chat: bool = False

    added_later: ClassVar[tuple[str, ...]] = (*ChatSettings.added_later, "cloze")

    @model_validator(mode="after")
    def _consistent(self) -> BabilongSettings:
        if self.source == "official" and (self.facts is not None or self.start or self.cloze):
            raise ValueError("facts, start and cloze are settings of source=generated: the official rows have theirs")
        if self.cloze and (self.begin or self.chat):
            raise ValueError("cloze begins the answer itself, in plain text: leave out begin and chat")
        if self.set is not None and self.source != "official":
            raise ValueError("set names official rows: add source=official")
        if self.set is not None and self.set not in rows.SETS:
            raise ValueError(f"set is one of {', '.join(rows.SETS)}")
        return self


class Babilong(Task):
    """One of the tasks qa1 to qa5, whose mean is the published leaderboard."""

    settings: BabilongSettings
    settings_model = BabilongSettings
    name: ClassVar[str] = "babilong"
    subsets: ClassVar[Sequence[str]] = tuple(KINDS)
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    @property
    def task(self) -> str:
        """Name of the subset."""
        assert self.subset is not None, "the grid gives every cell one subset"
        return self.subset

    def check(self) -> None:
        if self.settings.cloze and self.task != "qa1":
            raise UserError(
                "cloze is for babilong:qa1, where one fact ends with the answer: ask for that subset alone."
            )
        if self.settings.prompt == "official":
            template(self.task)
        if self.settings.source == "generated":
            data.verify(self.data)

    def check_length(self, length: int | None) -> None:
        if self.settings.source == "official" and length is not None:
            self._file(length)

    def _file(self, length: int) -> RowFile:
        """Of the official rows of a length."""
        return rows.locate(self.task, self._set(length), self.data)

    def _set(self, length: int) -> str:
        return self.settings.set or rows.fitting(length)

    def files(self) -> Sequence[Path]:
        if self.settings.source == "official":
            return rows.files(self.task, self.data)
        return data.files(self.data)

    @property
    def drawn(self) -> bool:
        return self.settings.source == "generated"

    def made_to(self, length: int) -> bool:
        return self.settings.source == "generated"

    def sample_count(self) -> int:
        return SAMPLES

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of BABILong always has a length"
        builder = self.settings.builder(tokenizer)
        if self.settings.source == "official":
            yield from self._official(builder, length, limit)
            return
        texts = shared(builder, self.data)
        for index in range(min(SAMPLES, limit or SAMPLES)):
            yield self._generated(builder, texts, length, seed, index)

    def _generated(self, builder: PromptBuilder, texts: Haystack, length: int, seed: int, index: int) -> Instance:
        asked = self.settings
        key = f"babilong {self.task}:{asked.facts}:{asked.start:g}:{seed}:{length}:{index}"
        rng = random.Random(key)
        count = None if asked.facts is None else max(asked.facts, LEAST[self.task])
        story = draw(rng, self.task, count)
        facts = [builder.encode(" " + fact, after=".") for fact in story.facts]
        before, after = self._around(story.question)
        begun = self._begun
        if asked.cloze:
            begun = f"\nAnswer: {story.facts[story.support[-1]].partition(story.answer)[0].rstrip()}"
        frame = builder.frame(before, after, chat=asked.chat, question=story.question, answer=begun)
        room = length - len(frame) - asked.max_new_tokens - sum(map(len, facts))
        if room < 0:
            raise UserError(f"A length of {length} tokens cannot hold BABILong {self.task}: choose a larger --length.")
        noise = window(rng, texts, room, length)
        where = sorted(rng.choices(places(noise, texts.ends, asked.start, 100), k=len(facts)))
        hidden = hide(noise, facts, where)
        prompt = assemble(frame, hidden.ids, template=self._template)
        support = [round(100 * hidden.starts[i] / len(hidden.ids), 2) for i in story.support]
        meta = {"facts": len(facts), "support_percent": support}
        return self._instance(builder, str(index), prompt, story.question, story.answer, meta)

    def _official(self, builder: PromptBuilder, length: int, limit: int | None) -> Iterator[Instance]:
        """Rows in file order, never cut: one that is too long for its cell is refused."""
        name, file = self._set(length), self._file(length)
        for number, row in first(rows.read(file, scores.LABELS[self.task]), limit):
            question = row.question.strip()
            before, after = self._around(question)
            with naming(f"{file}, row {number}"):
                prompt = builder.build(
                    before,
                    row.input.strip(),
                    after,
                    chat=self.settings.chat,
                    question=question,
                    answer=self._begun,
                    template=self._template,
                )
            made = self._instance(builder, f"{number:04d}", prompt, question, row.target, {"set": name}, row.input)
            yield refused_if_longer(made, length)

    def _instance(
        self,
        builder: PromptBuilder,
        name: str,
        prompt: Prompt,
        question: str,
        answer: str,
        meta: dict[str, object],
        text: str | None = None,
    ) -> Instance:
        return Instance(
            id=name,
            prompt=prompt,
            max_new_tokens=self.settings.max_new_tokens,
            stop=stop_at_end(builder.tokenizer),
            thinking=self.settings.reading(builder, self.settings.chat),
            reference=answer,
            group=name,
            meta={"source": self.settings.source, "question": question, **meta},
            holds=frozenset() if text is None else named(text),
        )

    @property
    def _template(self) -> str:
        return template(self.task) if self.settings.prompt == "official" else BARE

    @property
    def _begun(self) -> str:
        if not self.settings.begin:
            return ""
        return "Answer:" if self.settings.chat else "\nAnswer:"

    def _around(self, question: str) -> tuple[str, str]:
        """Text before and after the context."""
        return fill(self._template, question=question)

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published. chance: that of a label of the right kind, drawn at random."""
        labels, question = scores.LABELS[self.task], instance.meta["question"]
        return {
            "score": scores.score(output.text, instance.reference, question, labels),
            "chance": scores.chance(instance.reference, question, labels),
        }
