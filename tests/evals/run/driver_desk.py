"""A driver of `--ray` on a small run, without a cluster: tests hand it what workers would tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from standins import write_preset

from evals.records.models import Answer, SampleRecord
from evals.records.read import read_records, read_run
from evals.records.store import RunStore
from evals.run.answering import Spent
from evals.run.cluster.connect import Cluster
from evals.run.cluster.driver import Driver
from evals.run.cluster.hand import Hand, Told
from evals.run.cluster.messages import Appended, Began, Ended, Finished, Message, Saved, Stepped
from evals.run.cluster.schedule import jobs
from evals.run.cluster.worker import Place
from evals.run.grid import Cell, plan
from evals.run.spec import RunSpec


class Witness:
    """Notes what is told, and how many records were on the disk by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.on_disk: set[int] = set()

    def finish(self, cell: Cell, state: Any) -> None:
        self.told.append((cell.id, state.status))
        assert read_run(self.folder).cells[cell.id].status == state.status
        self.on_disk.add(len(list(read_records(self.folder))))

    def begin(self, cell: Cell, steps: int, place: str = "") -> None: ...

    def step(self, cell: Cell) -> None: ...

    def log(self, text: str) -> None:
        self.said.append(text)


class OneHost(Cluster):
    def hosts(self) -> int:
        return 1


class Desk:
    """A driver on a run of three cells, each of which has a worker, and how often its records were written."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        models = [str(write_preset(folder, "a"))]
        spec = RunSpec(tasks=["sum"], models=models, lengths=[64, 96, 128], random_weights=True)
        self.cells = plan(spec)
        self.folder = folder / "run"
        self.store = RunStore(self.folder, "k", {})
        self.store.meta.cells |= {cell.id: cell.state() for cell in self.cells}
        self.store.save()
        self.witness = Witness(self.folder)
        self.driver = Driver(self.store, spec, self.witness, Spent(), OneHost("local", None))  # type: ignore[arg-type]
        self.driver.hearing.cells = {cell.id: cell for cell in self.cells}
        self.writes: list[int] = []
        append = self.store.append
        monkeypatch.setattr(self.store, "append", lambda *r: (self.writes.append(len(r)), append(*r)))
        self.hands = [
            Hand(None, place=Place("node", "CPU", at), job=job)
            for at, job in enumerate(jobs(self.cells, self.store.meta.cells))
        ]

    def listen(self, *messages: list[Message]) -> None:
        """Hear what each of the workers has to tell, as after one poll."""
        told: list[Told] = list(zip(self.hands, messages, strict=False))
        self.driver.hearing.write_down(told)
        for hand, found in told:
            self.driver.hearing.report(hand, found)

    def whole(self, at: int) -> list[Message]:
        """All that a worker tells of a cell with two samples."""
        cell = self.cells[at].id
        done = self.store.meta.cells[cell].model_copy(update={"status": "ok", "samples": 2})
        steps = [message for number in "01" for message in (Appended((sample(cell, number),)), Stepped(cell))]
        return [Began(cell, 2), *steps, Saved({cell: done}, {}), Finished(cell, done), Ended(0.0, 0.0)]


def sample(cell: str, name: str) -> SampleRecord:
    return SampleRecord(cell=cell, sample=name, metrics={"exact": 1.0}, output=Answer(text="", tokens=1))
