"""What the driver does with what workers tell it: one write for all that came together, and only then a word of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
from driver_desk import Desk, sample

from evals.errors import UserError
from evals.records.models import Measurement, ModelEntry, PerfRecord
from evals.records.read import read_records, read_run
from evals.records.store import StoreError
from evals.run.cluster.messages import Appended, Ended, Forgot, Message, Saved
from evals.run.samples import AuditError

pytestmark = pytest.mark.usefixtures("standins")


def test_what_came_together_is_written_once_and_told_afterwards(desk: Desk) -> None:
    desk.listen(*(desk.whole(at) for at in range(3)))
    assert desk.writes == [6]
    assert desk.witness.told == [(cell.id, "ok") for cell in desk.cells]
    assert desk.witness.on_disk == {6}
    assert [hand.job for hand in desk.hands] == [None] * 3


def test_a_model_that_was_loaded_is_on_the_disk_at_once(desk: Desk) -> None:
    cell = desk.cells[0].id
    loaded = ModelEntry(preset={"name": "a"}, fairness={"window": None}, identity="i")
    desk.listen([Saved({cell: desk.store.meta.cells[cell]}, {"a": loaded})])
    assert read_run(desk.folder).models == {"a": loaded}


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
    with pytest.raises(UserError, match=r"^The Ray cluster local is gone \(Socket closed\): everything measured"):
        desk.driver.execute(desk.cells)
    monkeypatch.setattr(Unavailable, "details", None)
    with pytest.raises(Unavailable):
        desk.driver.execute(desk.cells)
