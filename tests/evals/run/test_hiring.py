"""Workers with several GPUs: how many of which size the driver hires, and when it lets them go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standins import write_preset

pytest.importorskip("ray")
from evals.run.answering import Spent
from evals.run.cluster import connect
from evals.run.cluster.connect import Cluster
from evals.run.cluster.driver import Driver
from evals.run.cluster.hand import Hand
from evals.run.cluster.schedule import Schedule, jobs
from evals.run.cluster.worker import Place
from evals.run.grid import plan
from evals.run.spec import RunSpec


@dataclass(frozen=True)
class Nodes(Cluster):
    """A cluster of nodes with so many GPUs each."""

    gpus: tuple[int, ...] = ()

    def _nodes(self) -> list[dict[str, float]]:
        return [{"GPU": count, "CPU": 8} for count in self.gpus]


KILLED: list[str] = []
"""Processes that were ended."""


class Sizes(Driver):
    """A driver whose workers are only counted."""

    def _engage(self, gpus: int) -> None:
        self.hands.append(Hand(None, gpus, place=Place("node", "GPU", 1)))

    def _take_on(self, hand: Hand) -> None:
        self.hands.append(hand)

    @staticmethod
    def _kill(hand: Hand) -> None:
        if hand.actor:
            KILLED.append(hand.actor)

    def hired(self) -> list[int]:
        """GPUs of each worker."""
        self._hire()
        return sorted((hand.gpus for hand in self.hands), reverse=True)


def driver(folder: Path, nodes: tuple[int, ...], most: int | None = None, **gpus: int) -> Sizes:
    """A driver of models with three cells each. gpus: of each model."""
    models = [str(write_preset(folder, name, settings={"factor": i}, gpus=gpus[name])) for i, name in enumerate(gpus)]
    spec = RunSpec(tasks=["sum"], models=models, lengths=[64, 128, 256], random_weights=True, device="cuda")
    cells = plan(spec)
    store: Any = SimpleNamespace(meta=SimpleNamespace(cells={}), samples={}, perf=set())
    made = Sizes(store, spec, SimpleNamespace(), Spent(), Nodes("local", most, gpus=nodes))  # type: ignore[arg-type]
    made.schedule = Schedule(jobs(cells, {cell.id: cell.state() for cell in cells}))
    return made


@pytest.fixture(autouse=True)
def spreading(standins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from standins import Toy

    monkeypatch.setattr(Toy, "spreads", True)
    KILLED.clear()


def test_every_worker_has_its_gpus_on_one_node(tmp_path: Path) -> None:
    assert driver(tmp_path, (8,), a=2).hired() == [2, 2, 2]
    assert driver(tmp_path, (3, 3), a=2).hired() == [2, 2]
    assert driver(tmp_path, (1, 1), a=2).hired() == []
    assert driver(tmp_path, (8,), most=2, a=1).hired() == [1, 1]
    assert Nodes("local", None, gpus=(1, 4, 2)).most_gpus() == 4


def test_models_that_need_most_gpus_come_first_and_others_take_the_rest(tmp_path: Path) -> None:
    assert driver(tmp_path, (8,), a=1, b=2).hired() == [2, 2, 2, 1, 1]
    assert driver(tmp_path, (4,), a=1, b=4).hired() == [4]


def test_workers_without_jobs_of_their_size_make_room(tmp_path: Path) -> None:
    made = driver(tmp_path, (4,), a=1, b=4)
    assert made.hired() == [4]
    for _ in range(3):
        made.hands[0].job = made.schedule.take(None, [], 4)
        assert made.hands[0].job is not None
        assert made.hands[0].job.gpus == 4
        assert made.hired() == [4]
    assert made.schedule.take(None, [], 4) is None
    made.hands[0].job = None
    assert made.hired() == [1, 1, 1]


def test_processes_that_started_early_become_workers(tmp_path: Path) -> None:
    made = driver(tmp_path, (2,), a=1)
    made.cluster.recruits.extend([("first", 1), ("second", 1)])
    made._take_recruits()
    assert made.hired() == [1, 1]
    assert [hand.actor for hand in made.hands] == ["first", "second"]
    assert not KILLED


@pytest.mark.parametrize(
    ("recruits", "gpus", "left"),
    [
        ([("a", 1), ("b", 1), ("c", 1), ("d", 1)], 1, ["d"]),  # there are three cells
        ([("a", 0)], 1, ["a"]),  # the run is for GPUs
        ([("a", 1), ("b", 1)], 2, ["a", "b"]),  # they hold what a model over two GPUs needs
    ],
)
def test_processes_that_started_early_in_vain_make_room(
    tmp_path: Path, recruits: list[tuple[str, int]], gpus: int, left: list[str]
) -> None:
    made = driver(tmp_path, (8,), a=gpus)
    made.cluster.recruits.extend(recruits)
    made._take_recruits()
    assert left == KILLED


def test_as_many_processes_start_early_as_there_are_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "hire", lambda gpus: "process")
    for nodes, most, started in (((2,), None, 2), ((8,), 3, 3), ((8, 8), None, connect.MOST_RECRUITS)):
        cluster = Nodes("local", most, gpus=nodes)
        cluster.recruit(1)
        assert cluster.recruits == [("process", 1)] * started


def test_a_question_to_the_machine_of_recruits_waits_for_none_of_their_gpus() -> None:
    cluster = Nodes("local", None, [("process", 1)], gpus=(1,))
    assert cluster.call(lambda number: number + 1, 1) == 2
