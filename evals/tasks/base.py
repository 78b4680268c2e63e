"""What a benchmark implements: instances with token ids, a score for one sample, a summary of a cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from evals.errors import UserError
from evals.methods.base import Stop
from evals.records.models import Control, SampleRecord
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.source import DataSource
from evals.tasks.common.thinking import Thinking
from evals.tasks.common.view import View

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT = 4096
"""Tokens beside twice the answer up to which a length is tried out before a run."""


class TaskSettings(BaseModel):
    """Settings of a task, given as `--set key=value`. Tasks subclass this; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Instance:
    """One request to a model.

    id: unique and stable within the cell. target: ids to score; None asks for a generation. thinking: how an answer
    is read. reference: what the answer is compared with (JSON). group: the statistical cluster, by default the shared
    context. refused: why this request cannot be asked (its row is too long, ...): it is recorded as failed with that
    sentence, and the others of the cell go on. meta: what plots and reports need (depth, document, ...), JSON.

    For the controls of `--context`: control: whose context the prompt has. holds: names of what the context holds
    that answers are found in (a document, facts), by default its group; only a context without any of it serves as
    `other`. other: makes such a context, where those of other samples do not serve. order: place in which a growing
    limit takes the instances, where they do not come in that order.
    """

    id: str
    prompt: Prompt
    target: list[int] | None = None
    max_new_tokens: int = 0
    stop: Stop = field(default_factory=Stop)
    thinking: Thinking = field(default_factory=Thinking)
    reference: Any = None
    group: str = ""
    refused: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    control: Control = "own"
    holds: frozenset[str] = frozenset()
    other: Callable[[], list[int]] | None = None
    order: float = 0.0


@dataclass(frozen=True)
class Output:
    """What a model answered: generated ids and the text to score, or log-probabilities of the target ids.

    thinking_tokens: ids inside blocks of thinking. unfinished_thinking: the answer ends inside one.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    thinking_tokens: int = 0
    unfinished_thinking: bool = False


class BaseTask(ABC):
    """What every task has: a name, settings, data, and a summary of its cells. Implement `Task` or `MeasuredTask`.

    version changes whenever prompts or scores change, so that old and new samples never mix.
    metric names the score that tables and plots show first; higher_is_better says which way is good.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    metric: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    subsets: ClassVar[Sequence[str]] = ()
    """Names that may follow the colon; a bare task name runs all of them, one cell each."""
    lengths: ClassVar[Sequence[int] | None] = None
    """Default lengths in tokens; None where the data has its own lengths and --length is the truncation budget."""
    settings_model: ClassVar[type[TaskSettings]] = TaskSettings

    def __init__(self, subset: str | None, settings: TaskSettings, data: DataSource) -> None:
        self.subset = subset
        self.settings = settings
        self.data = data

    @property
    def full_name(self) -> str:
        """`task`, or `task:subset` where it has subsets."""
        return f"{self.name}:{self.subset}" if self.subset else self.name

    @property
    def dataset(self) -> str:
        """The subset of a task that has some: in most benchmarks, one of its data sets."""
        assert self.subset is not None, "the grid gives every cell one subset"
        return self.subset

    def __reduce__(self) -> tuple[type[Self], tuple[str | None, TaskSettings, DataSource]]:
        """Another process reads and tokenises the data itself, once: they do not travel with every cell."""
        return type(self), (self.subset, self.settings, self.data)

    def check(self) -> None:  # noqa: B027 - a task that brings its own data has nothing to check
        """Called before any model is loaded. Raises UserError where data are missing, and says how to get them."""

    def check_length(self, length: int | None) -> None:  # noqa: B027 - most tasks read the same files at every length
        """Called like `check`, for each length. Raises UserError where no cell of the length can be asked: data are
        missing, it needs a length, or the answer alone takes all of it.
        """

    def files(self) -> Sequence[Path]:
        """Files below `--data-dir` that this task reads; their bytes are part of the identity of its cells.

        A folder stands for everything in it except hidden files and run folders. The default, the whole data
        folder, is safe but too wide: a task that knows its files names them. Missing files are left out.
        """
        return [self.data.data_dir] if self.data.data_dir else []

    def sample_tokens(self, length: int) -> int:
        """Tokens read for one of what `limit` counts, for the plan of a run."""
        return length

    def sample_count(self) -> int | None:
        """Samples of a cell without a limit, for the plan of a run; None where only the data know."""
        return None

    @property
    def endless(self) -> bool:
        """Whether a limit beyond `sample_count` is met with further samples."""
        return False

    def answer_tokens(self) -> int:
        """Tokens generated for a sample, at most, for the plan of a run; 0 where given tokens are scored."""
        return 64

    def summarize(self, samples: Sequence[SampleRecord]) -> dict[str, float]:
        """Metrics of a cell from its sample records: by default the mean of every metric."""
        names = dict.fromkeys(name for sample in samples for name in sample.metrics)
        return {
            name: sum(values) / len(values)
            for name in names
            if (values := [s.metrics[name] for s in samples if name in s.metrics])
        }

    @classmethod
    def views(cls, scores: Mapping[str, float]) -> list[View]:
        """Named averages over the scores of one model by subset.

        A view that lacks one of its subsets is left out; most benchmarks define none.
        """
        return []


class Task(BaseTask):
    """A benchmark whose samples a model answers, or one dataset of it (`longbench:qasper`)."""

    @abstractmethod
    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The instances of one cell, in a fixed order that depends on the arguments alone.

        length: prompt + answer budget in tokens. limit: the largest number of instances.
        """

    def made_to(self, length: int) -> bool:
        """Whether prompts are made to a length, so that making one of a short length is cheap (`tried`). False where
        rows have lengths of their own.
        """
        return False

    def tried(self, length: int) -> bool:
        """Whether a run and its plan make a sample of a length before a model is loaded (`check_room`): by default
        where prompts are made to it and it is short. A longer one has room for all that is not context.
        """
        return self.made_to(length) and length <= SHORT + 2 * self.answer_tokens()

    def check_room(self, tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> None:
        """Make samples until one can be asked. Raises UserError where none can."""
        refused = None
        for instance in self.instances(tokenizer, length, None, seed):
            if instance.refused is None:
                return
            refused = refused or instance.refused
        if refused is not None:
            raise UserError(refused)

    def query_tokens(self, length: int) -> int | None:
        """Tokens of query and answer, where all samples have as many, for the plan of a run; None where they differ."""
        return None

    def contexts(self, samples: int) -> int | None:
        """Different contexts that so many samples have, at most, for the plan of a run; None where that does not
        matter, since the task itself makes the contexts of others (`Instance.other`).
        """
        return samples

    @property
    def drawn(self) -> bool:
        """Whether samples are drawn, so that several seeds (`--set seeds=3`) ask different ones."""
        return True

    @property
    def chance(self) -> float:
        """The expected score of a guess, where samples do not say theirs as a metric `chance`."""
        return 0.0

    @property
    def inseparable(self) -> str | None:
        """Why the questions cannot be asked with another context (`--context`), as a sentence without its full stop;
        None where they can.
        """
        return None

    @abstractmethod
    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """Metrics of one sample."""
