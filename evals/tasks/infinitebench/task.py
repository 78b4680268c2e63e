"""InfiniteBench: twelve tasks, official prompts and both official scorers (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.common.view import View
from evals.tasks.common.whole_cut import Rule
from evals.tasks.infinitebench import generated, official, rows
from evals.tasks.infinitebench.generators import GENERATORS
from evals.tasks.infinitebench.prompts import Maker
from evals.tasks.infinitebench.scorers import JUNE_SCORES, SCORERS, score
from evals.tasks.infinitebench.subsets import ASKED_INSIDE, FOUR_CHOICES, MAX_NEW_TOKENS, TASKS, views
from evals.tasks.infinitebench.templates import CHAT_FAMILIES, template
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.official import OfficialSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["InfiniteBench", "score"]


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
    def chance(self) -> float:
        return 0.25 if self.dataset in FOUR_CHOICES else 0.0

    @property
    def inseparable(self) -> str | None:
        return f"In {self.dataset} the question stands in the context" if self.dataset in ASKED_INSIDE else None

    def check(self) -> None:
        template(self.dataset, self.settings.family, self.settings.templates)

    def check_length(self, length: int | None) -> None:
        if not self._generates(length):
            self.settings.check_overlength(self._budget(length))
            rows.locate(self.dataset, length, self.data)

    def files(self) -> Sequence[Path]:
        return rows.files(self.dataset, self.data) if self.settings.source != "generated" else []

    @property
    def drawn(self) -> bool:
        return self.dataset in GENERATORS and self.settings.source != "official"

    def made_to(self, length: int) -> bool:
        return self._generates(length)

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens or MAX_NEW_TOKENS[self.dataset]

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Rows in file order (generated: in row order); a limit takes rows of all depths (`spread`)."""
        settings = self.settings
        text = template(self.dataset, settings.family, settings.templates)
        chat = settings.wraps(tokenizer, officially=settings.family in CHAT_FAMILIES)
        builder = settings.builder(tokenizer)
        rule: Rule = "uneven" if settings.family in CHAT_FAMILIES else "even"  # eval_utils.py, eval_yarn_mistral.py
        maker = Maker(self.dataset, text, builder, chat, rule, settings.max_new_tokens)
        file, budget = None, None
        if self._generates(length):
            assert length is not None
            requests = generated.requests(maker, length, limit, seed)
        else:
            budget = self._budget(length)
            file = rows.locate(self.dataset, length, self.data)
            requests = official.requests(maker, file, budget, limit)
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
            if self.dataset not in GENERATORS:
                raise UserError(f"InfiniteBench {self.dataset} cannot be generated: use source=official.")
            if length is None:
                raise UserError(f"InfiniteBench {self.dataset} is generated at a length: give --length.")
            return True
        if source == "official" or self.dataset not in GENERATORS or length is None:
            return False
        return rows.brought(self.dataset, length, self.data) is None

    def _budget(self, length: int | None) -> int | None:
        return self.settings.prompt_budget(length, self.answer_tokens(), f"InfiniteBench {self.dataset}")

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score by the chosen scorer; where the two generations differ, also the score of each by name."""
        chosen = self.settings.scorer
        values = {"score": score(self.dataset, output.text, instance.reference, chosen)}
        if self.dataset in JUNE_SCORES:
            for name in SCORERS:
                values[f"score_{name}"] = score(self.dataset, output.text, instance.reference, name)
        return values

    @classmethod
    def views(cls, scores: Mapping[str, float]) -> list[View]:
        return views(scores)
