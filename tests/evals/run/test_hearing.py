"""What the driver does with what workers tell it: one write for all that came together, and only then a word of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standins import write_preset

pytest.importorskip("ray")
from evals.errors import UserError
from evals.records.models import Answer, Measurement, PerfRecord, SampleRecord
from evals.records.read import read_records, read_run
from evals.records.store import RunStore, StoreError
from evals.run.answering import Spent
from evals.run.cluster.connect import Cluster
from evals.run.cluster.driver import Driver, Hand, Told
from evals.run.cluster.messages import Appended, Began, Ended, Finished, Forgot, Message, Saved, Stepped
from evals.run.cluster.schedule import jobs
from evals.run.cluster.worker import Place
from evals.run.grid import Cell, plan
from evals.run.samples import AuditError
from evals.run.spec import RunSpec

pytestmark = pytest.mark.usefixtures("standins")


class Witness:
    """Notes what is told, and how many records were on the disk by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, str]] = []
        self.on_disk: set[int] = set()

    def finish(self, cell: Cell, state: Any) -> None:
        self.told.append((cell.id, state.status))
        assert read_run(self.folder).cells[cell.id].status == state.status
        self.on_disk.add(len(list(read_records(self.folder))))

    def begin(self, cell: Cell, steps: int, place: str = "") -> None: ...

    def step(self, cell: Cell) -> None: ...


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
        self.driver._cells = {cell.id: cell for cell in self.cells}
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
        self.driver._write_down(told)
        for hand, found in told:
            self.driver._report(hand, found)

    def whole(self, at: int) -> list[Message]:
        """All that a worker tells of a cell with two samples."""
        cell = self.cells[at].id
        done = self.store.meta.cells[cell].model_copy(update={"status": "ok", "samples": 2})
        steps = [message for number in "01" for message in (Appended((sample(cell, number),)), Stepped(cell))]
        return [Began(cell, 2), *steps, Saved({cell: done}, {}), Finished(cell, done), Ended(0.0, 0.0)]


def sample(cell: str, name: str) -> SampleRecord:
    return SampleRecord(cell=cell, sample=name, metrics={"exact": 1.0}, output=Answer(text="", tokens=1))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(tmp_path, monkeypatch)
    with made.store:
        yield made


def test_what_came_together_is_written_once_and_told_afterwards(desk: Desk) -> None:
    desk.listen(*(desk.whole(at) for at in range(3)))
    assert desk.writes == [6]
    assert desk.witness.told == [(cell.id, "ok") for cell in desk.cells]
    assert desk.witness.on_disk == {6}
    assert [hand.job for hand in desk.hands] == [None] * 3


def test_a_cell_that_is_measured_again_loses_its_old_records_only(desk: Desk) -> None:
    cell, other = desk.cells[0].id, desk.cells[1].id
    perf = PerfRecord.of(cell, Measurement(status="ok", ttft_s=1.0))
    desk.listen([Appended((perf,))])
    again = perf.model_copy(update={"ttft_s": 2.0})
    desk.listen([Forgot(frozenset({cell})), Appended((again,))], [Appended((sample(other, "0"),))])
    assert list(read_records(desk.folder)) == [again, sample(other, "0")]


def test_an_error_of_one_worker_keeps_what_others_told(desk: Desk) -> None:
    broken: list[Message] = [Ended(0.0, 0.0, AuditError("two BOS"))]
    with pytest.raises(AuditError):
        desk.listen(broken, desk.whole(1))
    assert len(list(read_records(desk.folder))) == 2
    assert read_run(desk.folder).cells[desk.cells[1].id].status == "ok"


def test_what_a_full_disk_refused_is_not_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(desk.store, "append", full)
    with pytest.raises(StoreError):
        desk.listen(desk.whole(0))
    assert desk.witness.told == []
    assert read_run(desk.folder).cells[desk.cells[0].id].status == "pending"


def test_a_stopped_run_writes_down_states_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its state, a cell that was measured to its end would be measured again."""
    last = desk.whole(0)[:-1]
    hand = desk.hands[0]
    hand.actor = SimpleNamespace(messages=SimpleNamespace(remote=lambda wait_s: "later"))
    desk.driver.hands, desk.driver._polls = [hand], {"now": hand}
    monkeypatch.setattr("ray.wait", lambda polls, num_returns, timeout: (polls, []))
    monkeypatch.setattr("ray.get", lambda poll: last if poll == "now" else [])
    desk.driver._drain()
    assert len(list(read_records(desk.folder))) == 2
    state = read_run(desk.folder).cells[desk.cells[0].id]
    assert (state.status, state.begun) == ("ok", 0)


def test_a_cluster_that_rays_client_has_lost_is_one_sentence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client lets errors of gRPC through, which are no errors of Ray's."""

    class Unavailable(Exception):
        def details(self) -> str:
            return "Socket closed"

    def nodes() -> None:
        raise Unavailable

    monkeypatch.setattr("ray.nodes", nodes)
    with pytest.raises(
        UserError, match=r"^The Ray cluster local is gone \(Socket closed\): everything measured"
    ):
        desk.driver.execute(desk.cells)
    monkeypatch.setattr(Unavailable, "details", None)
    with pytest.raises(Unavailable):
        desk.driver.execute(desk.cells)
