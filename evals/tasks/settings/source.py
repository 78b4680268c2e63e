"""The setting `source`: instances that are generated here, or the published rows (`--set source=official`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from evals.tasks.base import Instance, Task
from evals.tasks.common import documents
from evals.tasks.common.haystack import Haystack, shared
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.source import DataSource
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
"""Generated samples of a cell."""


class SourceSettings(ChatSettings):
    """Where the instances come from."""

    source: Literal["generated", "official"] = Field(
        "generated", description="instances that are generated at --length, or the published ones"
    )


@dataclass(frozen=True)
class Source(ABC):
    """Where the instances of a task come from. The members answer for `Task`, which describes them.

    made_to_length: `Task.made_to`, of every length. samples: `Task.sample_count`. By default rows of files.
    """

    drawn: ClassVar[bool] = False
    made_to_length: ClassVar[bool] = False
    samples: ClassVar[int | None] = None

    subset: str
    settings: SourceSettings
    data: DataSource

    def check(self) -> None:  # noqa: B027 - a source that brings its own data has nothing to check
        """As `Task.check`."""

    def check_length(self, length: int | None) -> None:  # noqa: B027 - most read the same files at every length
        """As `Task.check_length`."""

    def files(self) -> Sequence[Path]:
        """As `Task.files`; by default none."""
        return []

    @abstractmethod
    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        """As `Task.instances`."""


class GeneratedSource(Source):
    """Instances that are made to the length."""

    drawn = True
    made_to_length = True
    samples = SAMPLES

    @staticmethod
    def count(limit: int | None) -> int:
        """How many are made under a limit."""
        return min(SAMPLES, limit or SAMPLES)


class HiddenSource(GeneratedSource):
    """Instances that are hidden in the user's own text."""

    def check(self) -> None:
        documents.verify(self.data)

    def files(self) -> Sequence[Path]:
        return documents.files(self.data)

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        texts = shared(builder, self.data)
        for index in range(self.count(limit)):
            yield self.instance(builder, texts, length, seed, index)

    @abstractmethod
    def instance(self, builder: PromptBuilder, texts: Haystack, length: int, seed: int, index: int) -> Instance:
        """One instance. Raises UserError where the length has no room for it."""


class SourcedTask(Task):
    """A task whose settings name the source of its instances."""

    settings: SourceSettings
    generated: ClassVar[type[Source]]
    official: ClassVar[type[Source]]

    @property
    def source(self) -> Source:
        """The source that the settings name."""
        named = self.official if self.settings.source == "official" else self.generated
        return named(self.dataset, self.settings, self.data)

    def check(self) -> None:
        self.source.check()

    def check_length(self, length: int | None) -> None:
        self.source.check_length(length)

    def files(self) -> Sequence[Path]:
        return self.source.files()

    @property
    def drawn(self) -> bool:
        return self.source.drawn

    def made_to(self, length: int) -> bool:
        return self.source.made_to_length

    def sample_count(self) -> int | None:
        return self.source.samples

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, f"a cell of {self.name} always has a length"
        return self.source.instances(self.settings.builder(tokenizer), length, limit, seed)
