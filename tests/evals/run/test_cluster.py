"""Sweeps on Ray: the same records as without it, whatever is killed; and what the driver does with bad cells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folders
import pytest
from command_result import Result
from not_empty import not_empty
from standins import write_preset

pytest.importorskip("ray")
sys.path.insert(0, str(folders.TESTS / "chaos"))
import ray_kills
from ray_kills import COMMAND, ThreeNodes

from evals.cli.options import with_address
from evals.errors import UserError
from evals.records.read import read_answers, read_records, read_run
from evals.run.cluster import connect
from evals.run.cluster.schedule import Job, Schedule, jobs
from evals.run.grid import plan
from evals.run.spec import RunSpec

MODEL = ("--random-weights", "--device", "cpu")


WHOLE = os.environ.get("SHAREDLLM_CLUSTER") == "1"
whole = pytest.mark.skipif(not WHOLE, reason="takes minutes: set SHAREDLLM_CLUSTER=1")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeNodes]:
    """Three raylets on this machine, whose workers know the stand-ins."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
            patch.setenv(name, os.environ.get(name, ""))
        ray_kills.prepare(tmp_path_factory.mktemp("cluster") / "plugins")
        cluster = ThreeNodes()
        signal.signal(signal.SIGTERM, before)  # Ray has put its own handler there
        yield cluster
        cluster.stop()


@dataclass(frozen=True)
class Sweep:
    """`sharedllm-eval` with the toy model, as a process of its own: Ray keeps state for as long as a process lives."""

    folder: Path
    address: str

    def __call__(self, *arguments: object, ray: str | None = None, output: str = "run") -> Result:
        model = ("--model", write_preset(self.folder, "a"), *MODEL, "--output", self.folder / output)
        words = [*model, *(("--ray", ray or self.address) if ray != "" else ()), *arguments]
        done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=280)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def sweep(nodes: ThreeNodes, tmp_path: Path) -> Sweep:
    """Runs below the test's folder, by default on the cluster."""
    return Sweep(tmp_path, nodes.address)


@whole
def test_kills_of_workers_nodes_and_the_driver_lose_nothing(nodes: ThreeNodes, tmp_path: Path) -> None:
    totals = ray_kills.campaign(3, seed=5, nodes=nodes, folder=tmp_path, targets=("worker", "node", "driver"))
    assert totals.kills.total() == 3
    assert totals.good(), totals


@whole
def test_one_machine_without_a_cluster_writes_the_same_records(sweep: Sweep, tmp_path: Path) -> None:
    """`--ray 2`: answered and measured cells, stdout as ever, devices beside the times."""
    words = ["--task", "sum,efficiency", "--length", "64", "--set", "task.shared=1", "repeats=1", "new_tokens=4"]
    words += ["query_tokens=8"]
    plain, spread = sweep(*words, ray="", output="plain"), sweep(*words, ray="2")
    assert (plain.code, spread.code) == (0, 0), spread.err
    without, found = (
        sorted(answer for answer in read_answers(tmp_path / name) if answer[0][1] != "cold")
        for name in ("plain", "run")
    )
    assert without == found
    assert len(found) == 6
    measured = [record for record in read_records(tmp_path / "run") if record.kind == "perf"]
    assert len(measured) == 2
    assert all(record.device for record in measured)
    assert spread.last["failed"] == 0
    assert "raylet" not in spread.out
    assert spread.err.count("Worker ") == 2


@whole
def test_workers_on_this_machine_do_not_give_way_to_others() -> None:
    code = """import os, ray
from evals.run.cluster.connect import connected
with connected("1"):
    print(ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote()) - os.nice(0))"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["0"]


@whole
def test_rays_client_writes_the_same_records_and_its_workers_may_die(
    sweep: Sweep, nodes: ThreeNodes, tmp_path: Path
) -> None:
    words = ["--task", "sum", "--length", "128,64", "--no-perf"]
    plain, spread = sweep(*words, ray="", output="plain"), sweep(*words, ray=nodes.client)
    assert (plain.code, spread.code) == (0, 0), spread.err
    assert sorted(read_answers(tmp_path / "plain")) == sorted(read_answers(tmp_path / "run"))
    deadly = sweep(*words, "--set", "trouble=deadly", ray=nodes.client, output="deadly")
    assert deadly.code == 1, deadly.err
    assert [cell["status"] for cell in deadly.last["cells"]] == ["failed", "ok"]
    assert deadly.err.count("Lost worker") == 3


def test_rays_client_has_a_package_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "find_spec", lambda name: None)
    with (
        pytest.raises(UserError, match=r"^--ray ray://host:1 needs Ray's client: pip install 'sharedllm\[ray\]'\.$"),
        connect.connected("ray://host:1"),
    ):
        pass


@whole
def test_a_cell_that_kills_three_workers_fails_and_the_others_go_on(sweep: Sweep, tmp_path: Path) -> None:
    done = sweep("--task", "sum", "--length", "128,64", "--no-perf", "--set", "trouble=deadly")
    assert done.code == 1, done.err
    cells = done.last["cells"]
    assert [(cell["length"], cell["status"]) for cell in cells] == [(128, "failed"), (64, "ok")]
    assert "killed three times" in cells[0]["error"]
    assert done.err.count("Lost worker") == 3
    assert all(state.begun == 0 for state in not_empty(read_run(tmp_path / "run").cells.values()))


@whole
def test_a_broken_prompt_ends_the_run(sweep: Sweep) -> None:
    done = sweep("--task", "sum", "--no-perf", "--set", "trouble=two bos")
    assert done.code == 1
    assert "AuditError: sum, sample 000: 2 BOS tokens in one prompt" in done.err


@whole
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_keeps_what_was_told_and_counts_no_death(
    nodes: ThreeNodes, tmp_path: Path, stop: signal.Signals
) -> None:
    words = ["--task", "sum", "--model", write_preset(tmp_path, "a"), *MODEL, "--no-perf", "--ray", nodes.address]
    words += ["--set", "contexts=1000", "pause=0.05", "--output", tmp_path / "run"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    samples = tmp_path / "run" / "samples.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (samples.exists() and samples.stat().st_size > 5000):
        time.sleep(0.05)
    os.killpg(process.pid, stop)  # as a terminal and a job scheduler do
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop, err
    assert "Traceback" not in err
    assert "the same command goes on from there" in err
    assert "Lost worker" not in err
    assert len(list(read_answers(tmp_path / "run"))) > 5
    assert all(state.begun == 0 for state in not_empty(read_run(tmp_path / "run").cells.values()))


WAITING = """
import os, signal, threading, time
import ray
from evals.run.signals import terminable

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
late = ray.remote(lambda: time.sleep(60)).remote()
threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
with terminable():
    try:
        ray.get(late)
    except Exception as error:
        print("an error:", type(error))
    except KeyboardInterrupt:
        print("a stop:", terminable.told)
ray.shutdown()
"""


@whole
def test_sigterm_while_ray_waits_is_a_stop() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "a stop: True"


@whole
def test_cells_that_fail_or_have_no_memory_beside_others(sweep: Sweep) -> None:
    words = ["--task", "sum", "--length", "64,96,128", "--no-perf", "--set"]
    done = sweep(*words, "available=100", "room=80")
    assert done.code == 1, done.err
    found = {cell["length"]: (cell["status"], cell["error"]) for cell in done.last["cells"]}
    assert found[64] == ("ok", None)
    assert found[96] == ("oom", "CUDA out of memory: 89 tokens do not fit")
    assert found[128][0] == "failed"
    assert "The text has 100 tokens, not 128: ask for less." in found[128][1]
    broken = sweep(*words, "trouble=bug", output="broken")
    assert broken.code == 1
    assert [cell["status"] for cell in broken.last["cells"]] == ["failed"] * 3
    assert "ZeroDivisionError: a bug in the task" in broken.err


OCCUPANT = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1)
class Sitter:
    def sit(self): return 1
sitters = [Sitter.remote() for _ in range(3)]
print(ray.get([sitter.sit.remote() for sitter in sitters]), flush=True)
sys.stdin.read()
"""


@whole
def test_a_cluster_in_use_is_waited_for_aloud(nodes: ThreeNodes, tmp_path: Path) -> None:
    impatient = f"from evals.run.cluster import driver; driver.PATIENCE_S = 1\n{COMMAND[2]}"
    words = ["--task", "sum", "--model", write_preset(tmp_path, "a"), *MODEL, "--no-perf", "--ray", nodes.address]
    words += ["--output", tmp_path / "run"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", OCCUPANT, nodes.address], text=True, **pipes) as occupant:
        assert occupant.stdout
        assert occupant.stdout.readline().strip() == "[1, 1, 1]"
        process = subprocess.Popen([*COMMAND[:2], impatient, *map(str, words)], text=True, **pipes)
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("No worker has come yet: the processors of the Ray cluster") for line in lines)
        assert process.poll() is None
        occupant.communicate()
    assert process.communicate(timeout=120)[1].count("ok") >= 1
    assert process.returncode == 0


@whole
def test_no_cluster_is_one_sentence(sweep: Sweep, tmp_path: Path) -> None:
    done = sweep("--task", "sum", ray="127.0.0.1:1")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert "no Ray cluster answers there" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--ray"], ["--ray", "local"]),
        (["--ray", "--limit", "3"], ["--ray", "local", "--limit", "3"]),
        (["--set", "a=1", "--ray", "b=2"], ["--set", "a=1", "--ray", "local", "b=2"]),
        (["--ray", "auto"], ["--ray", "auto"]),
        (["--ray=auto", "x=1"], ["--ray=auto", "x=1"]),
    ],
)
def test_the_address_may_be_left_out(given: list[str], found: list[str]) -> None:
    assert with_address(given) == found


def waiting(folder: Path, *names: str) -> list[Job]:
    models = [str(write_preset(folder, name, settings={"factor": i + 1})) for i, name in enumerate(names)]
    cells = plan(RunSpec(tasks=["sum"], models=models, lengths=[64, 256, 128], random_weights=True))
    planned = {cell.id: cell.state().model_copy(update={"planned_s": cell.length}) for cell in cells}
    return jobs(cells, planned)


@pytest.mark.usefixtures("standins")
def test_the_longest_cell_comes_first_and_a_loaded_model_is_kept(tmp_path: Path) -> None:
    schedule = Schedule(waiting(tmp_path, "a", "b"))
    taken = []
    held = None
    while job := schedule.take(held, []):
        held = job.model
        taken.append((job.model, job.cells[0].length))
    assert sorted(taken[:3], key=str) == sorted(((taken[0][0], n) for n in (256, 128, 64)), key=str)
    assert [length for _, length in taken] == [256, 128, 64] * 2


@pytest.mark.usefixtures("standins")
def test_a_second_worker_takes_another_model(tmp_path: Path) -> None:
    schedule = Schedule(waiting(tmp_path, "a", "b"))
    first = schedule.take(None, [])
    assert first is not None
    second = schedule.take(None, [first.model])
    assert second is not None
    assert second.model != first.model
    third = schedule.take("gone", [first.model, first.model, second.model])
    assert third is not None
    assert third.model == second.model
