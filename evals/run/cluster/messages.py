"""What a worker tells the driver, in the order in which it happened."""

from __future__ import annotations

from dataclasses import dataclass

from evals.records.lines import AnyRecord
from evals.records.models import CellState, ModelEntry


@dataclass(frozen=True)
class Began:
    """A cell starts; it has that many steps."""

    cell: str
    steps: int


@dataclass(frozen=True)
class Stepped:
    """One request of a cell is done."""

    cell: str


@dataclass(frozen=True)
class Finished:
    """A cell has its state."""

    cell: str
    state: CellState


@dataclass(frozen=True)
class Logged:
    """A line for a person."""

    text: str


@dataclass(frozen=True)
class Appended:
    """Records that belong together."""

    records: tuple[AnyRecord, ...]


@dataclass(frozen=True)
class Forgot:
    """The records of these cells are to be set aside: they are measured again."""

    cells: frozenset[str]


@dataclass(frozen=True)
class Saved:
    """States of the cells of a job, and what is known about its model."""

    cells: dict[str, CellState]
    models: dict[str, ModelEntry]


@dataclass(frozen=True)
class Ended:
    """The job is over. load_s, model_s: seconds that it spent loading and in models. error: what must end the run."""

    load_s: float
    model_s: float
    error: BaseException | None = None


Message = Began | Stepped | Finished | Logged | Appended | Forgot | Saved | Ended
