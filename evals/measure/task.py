"""What a task implements that measures a model instead of asking it: its cells run in a process of their own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.records.models import Measurement
from evals.tasks.base import BaseTask, Instance

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evals.measure.device import Rates
    from evals.methods.base import LongContextModel


@dataclass(frozen=True)
class Measured:
    """What `MeasuredTask.measure` found: time and memory, and the metrics made of them."""

    perf: Measurement
    metrics: dict[str, float]


class MeasuredTask(BaseTask):
    """A task whose cell is one measurement of time and memory. Nothing is answered, so nothing is scored."""

    def requests(self) -> int:
        """Requests that a cell makes, for the plan of a run: by default three, and one that warms up."""
        return 4

    @abstractmethod
    def instance(self, tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> Instance:
        """The request to measure. length: tokens of context. Raises UserError where the length does not fit."""

    @abstractmethod
    def measure(self, model: LongContextModel, instance: Instance, rates: Rates) -> Measured:
        """Time and memory of the request. rates: what the device can do, measured before the model was loaded."""
