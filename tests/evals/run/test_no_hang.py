"""Situations in which other harnesses wait without end, as docs/scaling.md lists them: ours end with a sentence.

Those that need a cluster are in test_cluster.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_result import Result
from standins import Toy, write_preset

pytest.importorskip("ray")
from driver_desk import Desk
from ray.exceptions import RayActorError, RayTaskError

from evals.errors import UserError
from evals.run.checks.inputs import check_gpus
from evals.run.cluster import driver
from evals.run.cluster.driver import Driver
from evals.run.cluster.hand import Hand
from evals.run.cluster.schedule import Schedule
from evals.run.grid import plan
from evals.run.spec import RunSpec

pytestmark = pytest.mark.usefixtures("standins")


def test_more_gpus_for_a_model_than_a_node_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "spreads", True)
    spec = RunSpec(tasks=["sum"], models=[str(write_preset(tmp_path, "a", gpus=2))], lengths=[64], random_weights=True)
    with pytest.raises(
        UserError, match=r"^a needs 2 GPUs of one machine, and each node of the Ray cluster has 1 GPU: "
    ):
        check_gpus(plan(spec), 1, "each node of the Ray cluster")


def test_no_gpu_at_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}, "NodeManagerHostname": "n"}])
    desk.driver._on_gpus = True
    with pytest.raises(UserError, match=r"^The Ray cluster local has no GPU: add a node that has one\.$"):
        desk.driver.execute(desk.cells)


def test_places_that_others_have(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    said = desk.witness.said
    monkeypatch.setattr(driver, "PATIENCE_S", 0.01)
    desk.driver.hands = [Hand(None)]
    for _ in range(3):
        time.sleep(0.02)
        desk.driver._explain_waiting()
    assert len(said) == 1
    assert said[0].startswith("No worker has come yet: the processors of the Ray cluster local are in use, or")
    desk.driver.hands = desk.hands
    desk.driver._explain_waiting()
    desk.driver.hands = []
    time.sleep(0.02)
    desk.driver._explain_waiting()
    assert len(said) == 2, "and again where all that had come are lost"


def test_a_worker_that_cannot_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "_kill", staticmethod(lambda hand: None))
    reason = "ModuleNotFoundError: No module named 'evals'"
    early = RayActorError(error_msg=reason, actor_init_failed=True)
    late = RayTaskError("serve", reason, ModuleNotFoundError())
    for broken in (early, late):
        desk.driver.hands = [hand := Hand(None)]
        with pytest.raises(UserError, match=rf"^No worker of the Ray cluster starts: {reason}"):
            desk.driver._lose(hand, broken)


def test_a_worker_that_cannot_take_its_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its node lacks the package of a task: the job does not come to be there, and nothing is ever told."""
    reason = "ModuleNotFoundError: No module named 'their_tasks'"
    broken = RayTaskError("start", reason, ModuleNotFoundError())

    def get(poll: str) -> None:
        if poll == "start":
            raise broken

    answers = SimpleNamespace(remote=lambda *_: "start"), SimpleNamespace(remote=lambda *_: "later")
    hand = desk.hands[0]
    hand.actor, job, hand.job = SimpleNamespace(start=answers[0], messages=answers[1]), hand.job, None
    assert job is not None
    desk.driver.hands = [hand]
    desk.driver.schedule = Schedule([job])
    desk.driver._employ()
    monkeypatch.setattr(Driver, "_kill", staticmethod(lambda hand: None))
    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.wait", lambda polls, num_returns, timeout: ([p for p in polls if p == "start"], []))
    with pytest.raises(UserError, match=rf"^Worker node:0 cannot work on a sum 64 \({reason}\): install on every node"):
        desk.driver._listen()
    assert desk.store.meta.cells[desk.cells[0].id].begun == 0
    desk.driver._lose(hand, RayActorError(error_msg="It was killed."))  # what else it was asked


def test_workers_that_are_lost_before_they_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "_kill", staticmethod(lambda hand: None))
    lost = RayActorError(error_msg="The node is gone.")
    desk.driver.hands = [Hand(None) for _ in range(driver.MOST_LOST_STARTS)]
    for hand in desk.driver.hands[1:]:
        desk.driver._lose(hand, lost)
    with pytest.raises(UserError, match=r"^No worker of the Ray cluster starts: The node is gone"):
        desk.driver._lose(desk.driver.hands[0], lost)


def test_a_length_that_a_task_cannot_hold(
    command: Callable[..., Result], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    subsets = ("niah_single_1", "vt", "cwe", "fwe")
    names = ",".join(f"ruler:{name}" for name in subsets)
    done = command("--task", names, "--model", tiny_presets("full"), "--length", 16, "--output", tmp_path / "run")
    assert done.code == 2
    for name in subsets:
        assert f"A length of 16 tokens cannot hold {name}: choose a larger --length." in done.err
