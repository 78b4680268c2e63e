"""InfiniteBench: twelve tasks, official prompts and both official scorers (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.files import RowFile
from evals.tasks.common.fitting import fitting_size
from evals.tasks.common.rows import errors_at
from evals.tasks.common.spread import order, spread
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.common.view import View
from evals.tasks.common.whole_cut import Rule
from evals.tasks.infinitebench import rows
from evals.tasks.infinitebench.generators import GENERATORS, Generator
from evals.tasks.infinitebench.prompts import Maker, Request, Text
from evals.tasks.infinitebench.scorers import JUNE_SCORES, SCORERS, score
from evals.tasks.infinitebench.subsets import ASKED_INSIDE, DEPTH_SWEEPS, FOUR_CHOICES, MAX_NEW_TOKENS, TASKS, views
from evals.tasks.infinitebench.templates import CHAT_FAMILIES, template
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.official import OfficialSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["InfiniteBench", "score"]

SMALLEST = 2
"""Units (noise lines, pairs, ...) of the shortest generated row."""


class InfiniteBenchSettings(OfficialSettings):
    """Which rows, prompts and scorer are used."""

    source: Literal["auto", "official", "generated"] = Field(
        "auto",
        description="official rows, or rows generated at --length; auto: generated where a length is given, the task "
        "can be generated and the data folder has no rows of it",
    )
    family: str = Field(
        "gpt4",
        description="prompt family; chat=official is for those made for chat models (all but yarn_mistral)",
    )
    templates: Path | None = Field(None, description="file with the family's texts (none needed for gpt4)")
    scorer: Literal["2024-08", "2024-06"] = Field("2024-08", description="generation of the official scorer")
    max_new_tokens: int | None = Field(None, ge=1, description="answer budget, in place of the official one")


class InfiniteBench(Task):
    """One of the twelve tasks. --length is prompt + answer; without it, official rows are used uncut."""

    name = "infinitebench"
    version = 2
    subsets = TASKS
    settings_model = InfiniteBenchSettings
    settings: InfiniteBenchSettings

    @property
    def task(self) -> str:
        """Name of the subset."""
        assert self.subset is not None, "the grid gives every cell one subset"
        return self.subset

    @property
    def chance(self) -> float:
        return 0.25 if self.task in FOUR_CHOICES else 0.0

    @property
    def inseparable(self) -> str | None:
        return f"In {self.task} the question stands in the context" if self.task in ASKED_INSIDE else None

    def check(self) -> None:
        template(self.task, self.settings.family, self.settings.templates)

    def check_length(self, length: int | None) -> None:
        if not self._generates(length):
            self.settings.check_overlength(self._budget(length))
            rows.locate(self.task, length, self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.task, self.data) if self.settings.source != "generated" else []

    @property
    def drawn(self) -> bool:
        return self.task in GENERATORS and self.settings.source != "official"

    def made_to(self, length: int) -> bool:
        return self._generates(length)

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens or MAX_NEW_TOKENS[self.task]

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Rows in file order (generated: in row order); a limit takes rows of all depths (`spread`)."""
        settings = self.settings
        official = template(self.task, settings.family, settings.templates)
        chat = settings.wraps(tokenizer, officially=settings.family in CHAT_FAMILIES)
        builder = settings.builder(tokenizer)
        rule: Rule = "uneven" if settings.family in CHAT_FAMILIES else "even"  # eval_utils.py, eval_yarn_mistral.py
        maker = Maker(self.task, official, builder, chat, rule, settings.max_new_tokens)
        file, budget = None, None
        if self._generates(length):
            assert length is not None
            requests = self._generated(maker, length, limit, seed)
        else:
            budget = self._budget(length)
            file = rows.locate(self.task, length, self.data)
            requests = self._official(maker, file, budget, limit)
        for number, request in requests:
            instance = Instance(
                id=f"{number:04d}",
                prompt=request.prompt,
                max_new_tokens=request.new_tokens,
                stop=stop_at_end(tokenizer),
                thinking=settings.reading(builder, chat),
                reference=request.text.answer,
                meta={**request.text.meta, "family": settings.family, "chat": chat},
                holds=one_document(request.text.context),
                order=request.text.order,
            )
            yield settings.fitting(instance, budget, f"{file}, line {number}") if file else instance

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
        return rows.brought(self.task, length, self.data) is None

    def _official(
        self, maker: Maker, file: RowFile, budget: int | None, limit: int | None
    ) -> Iterator[tuple[int, Request]]:
        for number, row, answer in rows.read(self.task, file, limit):
            evidence = answer[0] if isinstance(answer, list) else answer
            text = Text(
                row.context,
                row.input,
                answer,
                row.options,
                str(evidence) if self.task in DEPTH_SWEEPS else None,
                {"source": "official"},
                order(number - 1) if self.task in DEPTH_SWEEPS else 0.0,
            )
            with errors_at(f"{file}, line {number}"):
                request = maker.request(text, budget)
            yield number, request

    def _budget(self, length: int | None) -> int | None:
        return self.settings.prompt_budget(length, self.answer_tokens(), f"InfiniteBench {self.task}")

    def _generated(self, maker: Maker, length: int, limit: int | None, seed: int) -> Iterator[tuple[int, Request]]:
        """Rows of the official size, or of the largest that fits; never cut."""
        generator = GENERATORS[self.task]
        count = generator.count(length)
        chosen = sorted(spread(list(range(count)), limit)) if limit is not None else range(count)

        def make(index: int, size: int) -> Request:
            row = generator.row(self.task, seed, index, size, length)
            meta: dict[str, str | float] = {"source": "generated", "size": size, **row.meta}
            return maker.request(Text(row.context, row.input, row.answer, [], row.evidence, meta, order(index)))

        size = self._size(generator, length, lambda size: make(0, size).tokens)
        for index in chosen:
            request = make(index, size)
            for smaller in range(size - 1, SMALLEST - 1, -max(1, size // 100)):
                if request.tokens <= length:
                    break
                request = make(index, smaller)
            yield index, request

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
