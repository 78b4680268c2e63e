"""InfiniteBench: twelve tasks, official prompts and both official scorers (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evals.errors import UserError
from evals.methods.base import Stop
from evals.tasks.base import Instance, Output, Task, TaskSettings
from evals.tasks.common.fitting import explicit_budget, fitting_size
from evals.tasks.common.prompt import Prompt, PromptBuilder, fill
from evals.tasks.common.view import View
from evals.tasks.infinitebench import rows
from evals.tasks.infinitebench.generators import GENERATORS, Generator
from evals.tasks.infinitebench.scorers import JUNE_SCORES, SCORERS, score
from evals.tasks.infinitebench.subsets import MAX_NEW_TOKENS, TASKS, views
from evals.tasks.infinitebench.templates import CHAT_FAMILIES, fields, template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["InfiniteBench", "score"]

SMALLEST = 2
"""Units (noise lines, pairs, ...) of the shortest generated row."""


class InfiniteBenchSettings(TaskSettings):
    """source: official rows, or rows generated at --length ("auto": generated where a length is given, the task
    can be generated and the data folder has no rows of that length). family: prompt family. templates: file with
    the family's texts (none needed for gpt4). scorer: generation of the official scorer. chat: "official" wraps the
    prompt in the tokenizer's chat template, if it has one, for the families made for chat (all but yarn_mistral).
    max_new_tokens: answer budget, in place of the official one. max_prompt_tokens: truncation budget, in place of
    --length less the answer."""

    source: Literal["auto", "official", "generated"] = "auto"
    family: str = "gpt4"
    templates: Path | None = None
    scorer: Literal["2024-08", "2024-06"] = "2024-08"
    chat: Literal["official", "never", "always"] = "official"
    max_new_tokens: int | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True)
class _Text:
    """A row as text. answer: as the scorer wants it. evidence: part of the context that holds the answer."""

    context: str
    input: str
    options: list[str]
    answer: Any
    evidence: str | None
    meta: dict[str, Any]


class InfiniteBench(Task):
    """One of the twelve tasks. --length is prompt + answer; without it, official rows are used uncut."""

    name = "infinitebench"
    version = 1
    subsets = TASKS
    settings_model = InfiniteBenchSettings
    settings: InfiniteBenchSettings

    @property
    def task(self) -> str:
        assert self.subset is not None, "the grid gives every cell one subset"
        return self.subset

    def check(self) -> None:
        if self.settings.source == "official" or self.task not in GENERATORS:
            rows.locate(self.task, None, self.data)

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Rows in file order (generated: in row order); a limit takes rows of all depths (`rows.spread`)."""
        settings = self.settings
        official = template(self.task, settings.family, settings.templates)
        maker = _Maker(self.task, official, PromptBuilder.of(tokenizer), self._chat(tokenizer), settings.max_new_tokens)
        eos = {tokenizer.eos_token_id} - {None}
        if self._generates(length):
            assert length is not None
            made = self._generated(maker, length, limit, seed)
        else:
            made = self._official(maker, length, limit)
        for number, text, prompt, new_tokens in made:
            yield Instance(
                id=f"{number:04d}",
                prompt=prompt,
                max_new_tokens=new_tokens,
                stop=Stop(ids=frozenset(eos)),
                reference=text.answer,
                meta={**text.meta, "family": settings.family, "chat": maker.chat},
            )

    def _chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        if self.settings.chat == "official":
            return self.settings.family in CHAT_FAMILIES and bool(tokenizer.chat_template)
        return self.settings.chat == "always"

    def _generates(self, length: int | None) -> bool:
        """Whether rows are generated. Raises UserError where that was asked for and cannot be."""
        source = self.settings.source
        if source == "generated":
            if self.task not in GENERATORS:
                raise UserError(f"InfiniteBench {self.task} cannot be generated: use source=official.")
            if length is None:
                raise UserError(f"InfiniteBench {self.task} is generated at a length: give --length.")
            return True
        if source == "official" or self.task not in GENERATORS or length is None:
            return False
        return not rows.has_length(self.task, length, self.data)

    def _official(
        self, maker: _Maker, length: int | None, limit: int | None
    ) -> Iterator[tuple[int, _Text, Prompt, int]]:
        new_tokens = self.settings.max_new_tokens or MAX_NEW_TOKENS[self.task]
        budget = self._budget(length, new_tokens)
        file = rows.locate(self.task, length, self.data)
        for number, row, answer in rows.read(self.task, file, limit):
            first = answer[0] if isinstance(answer, list) else answer
            evidence = first if self.task in ("passkey", "number_string", "kv_retrieval") else None
            text = _Text(row.context, row.input, row.options, answer, evidence, {"source": "official"})
            try:
                yield number, text, maker.prompt(text, budget), new_tokens
            except (UserError, ValueError) as error:
                raise UserError(f"{file}, line {number}: {error}") from error

    def _budget(self, length: int | None, new_tokens: int) -> int | None:
        if self.settings.max_prompt_tokens is not None:
            return explicit_budget(length, self.settings.max_prompt_tokens, new_tokens)
        if length is not None and length <= new_tokens:
            raise UserError(
                f"InfiniteBench {self.task} may answer with {new_tokens} tokens: choose a --length above that."
            )
        return None if length is None else length - new_tokens

    def _generated(
        self, maker: _Maker, length: int, limit: int | None, seed: int
    ) -> Iterator[tuple[int, _Text, Prompt, int]]:
        """Rows of the official size, or of the largest that fits; never cut."""
        generator = GENERATORS[self.task]
        count = generator.count(length)
        chosen = sorted(rows.spread(list(range(count)), limit)) if limit is not None else range(count)

        def make(index: int, size: int) -> tuple[_Text, Prompt, int]:
            row = generator.row(self.task, seed, index, size, length)
            meta: dict[str, Any] = {"source": "generated", "size": size}
            meta.update((key, row[key]) for key in ("depth", "layers") if key in row)
            text = _Text(row["context"], row["input"], [], row["answer"], row.get("evidence"), meta)
            return text, maker.prompt(text, None), maker.new_tokens(text)

        size = self._size(generator, length, lambda size: _total(make(0, size)))
        for index in chosen:
            made = make(index, size)
            for smaller in range(size - 1, SMALLEST - 1, -max(1, size // 100)):
                if _total(made) <= length:
                    break
                made = make(index, smaller)
            yield index, *made

    def _size(self, generator: Generator, length: int, tokens: Callable[[int], int]) -> int:
        """Units of row 0. Raises UserError where the length cannot hold the shortest row."""
        official = generator.official_size(length)
        if official is not None and tokens(official) <= length:
            return official
        if tokens(SMALLEST) > length:
            raise UserError(f"InfiniteBench {self.task} needs a longer --length than {length}.")
        return fitting_size(tokens, length, SMALLEST, official)

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score by the chosen scorer; where the two generations differ, also the score of each by name."""
        chosen = self.settings.scorer
        values = {"score": score(self.task, output.text, instance.reference, chosen)}
        if self.task in JUNE_SCORES:
            for name in SCORERS:
                values[f"score_{name}"] = score(self.task, output.text, instance.reference, name)
        return values

    @classmethod
    def views(cls, scores: Mapping[str, float]) -> list[View]:
        return views(scores)


@dataclass(frozen=True)
class _Maker:
    """Makes prompts of one task with one template and tokenizer."""

    task: str
    template: str
    builder: PromptBuilder
    chat: bool
    max_new_tokens: int | None

    def prompt(self, text: _Text, budget: int | None) -> Prompt:
        """The filled template; a search may look at the row's question, or all of the text after the context."""
        before, after = fill(self.template, **fields(self.task, text.input, text.options))
        at = -1 if text.evidence is None else text.context.find(text.evidence)
        evidence = (at, at + len(text.evidence)) if text.evidence is not None and at >= 0 else None
        return self.builder.build(
            before,
            text.context,
            after,
            budget=budget,
            chat=self.chat,
            question=text.input if text.input and text.input in after else after,
            template=self.template,
            evidence=evidence,
        )

    def new_tokens(self, text: _Text) -> int:
        """The official answer budget; math_calc's is as long as its answer, up to the official 30000."""
        official = MAX_NEW_TOKENS[self.task]
        if self.max_new_tokens or self.task != "math_calc":
            return self.max_new_tokens or official
        return min(official, len(self.builder.encode(str(text.answer))) + 16)


def _total(made: tuple[_Text, Prompt, int]) -> int:
    _, prompt, new_tokens = made
    return len(prompt) + new_tokens
