"""The setting `source`: instances that are generated here, or the published rows (`--set source=official`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evals.tasks.base import Instance, Task
from evals.tasks.common.prompt import PromptBuilder
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Source(ABC):
    """Where the instances of a task come from. The members answer for `Task`, which describes them.

    made_to_length: `Task.made_to`, of every length. samples: `Task.sample_count`. By default rows of files.
    """

    drawn: ClassVar[bool] = False
    made_to_length: ClassVar[bool] = False
    samples: ClassVar[int | None] = None

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


class SourcedTask(Task):
    """A task whose settings name the source of its instances."""

    settings: ChatSettings

    @property
    @abstractmethod
    def source(self) -> Source:
        """The source that the settings name."""

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
