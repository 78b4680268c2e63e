"""What a benchmark implements: instances with token ids, a score for one sample, a summary of a cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from evals.methods.base import Stop
from evals.tasks.common.prompt import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evals.measure.device import Rates
    from evals.methods.base import LongContextModel


class TaskSettings(BaseModel):
    """Settings of a task, given as `--set key=value`. Tasks subclass this; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class DataSource:
    """Where a task finds its data: a folder named by the user, the hub (unless offline), or what ships with Python."""

    data_dir: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class Instance:
    """One request to a model.

    id: unique and stable within the cell. target: ids to score; None asks for a generation.
    reference: what the answer is compared with (JSON). group: the statistical cluster, by default the shared
    context. meta: what plots and reports need (depth, document, control, ...), JSON.
    """

    id: str
    prompt: Prompt
    target: list[int] | None = None
    max_new_tokens: int = 0
    stop: Stop = field(default_factory=Stop)
    reference: Any = None
    group: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What a model answered: generated ids and their text, or log-probabilities of the target ids."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """What `Task.measure` found: the perf record of the cell (without `kind` and `cell`), and its metrics."""

    perf: dict[str, Any]
    metrics: dict[str, float]


class Task(ABC):
    """One benchmark, or one dataset of it (`longbench:qasper`).

    version changes whenever prompts or scores change, so that old and new samples never mix.
    metric names the score that tables and plots show first; higher_is_better says which way is good.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    metric: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    subsets: ClassVar[Sequence[str]] = ()
    """Names that may follow the colon; none given runs all of them, one cell each."""
    lengths: ClassVar[Sequence[int] | None] = None
    """Default lengths in tokens; None where the data has its own lengths and --length is the truncation budget."""
    settings_model: ClassVar[type[TaskSettings]] = TaskSettings
    apart: ClassVar[bool] = False
    """Whether cells are measured (`measure`), in a process of their own a model, instead of answered."""

    def __init__(self, subset: str | None, settings: TaskSettings, data: DataSource) -> None:
        self.subset = subset
        self.settings = settings
        self.data = data

    def check(self) -> None:  # noqa: B027 - a task that brings its own data has nothing to check
        """Called before any model is loaded. Raises UserError where data are missing, and says how to get them."""

    @abstractmethod
    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The instances of one cell, in a fixed order that depends on the arguments alone.

        length: prompt + answer budget in tokens. limit: at most that many instances.
        """

    def sample_tokens(self, length: int) -> int:
        """Tokens read for one of what `limit` counts, for the plan of a run."""
        return length

    @abstractmethod
    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """Metrics of one sample."""

    def measure(self, model: LongContextModel, instance: Instance, rates: Rates) -> Measured:
        """Time and memory of the first instance of a cell, for tasks that are `apart`. rates: of the device."""
        raise NotImplementedError

    def summarize(self, samples: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Metrics of a cell from its sample records: by default the mean of every metric."""
        names = dict.fromkeys(name for sample in samples for name in sample["metrics"])
        return {
            name: sum(values) / len(values)
            for name in names
            if (values := [s["metrics"][name] for s in samples if name in s["metrics"]])
        }

    @classmethod
    def views(cls, scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Named averages over the scores of one model by subset, as {view: {column: score}}.

        A view that lacks one of its subsets is left out; most benchmarks define none.
        """
        return {}
