"""Kills workers, nodes and the driver of a sweep on Ray at random moments, and compares with an undisturbed run.

python tests/chaos/ray_kills.py --kills 40 [--seed 0]

A cluster of three raylets runs on this machine. Lost: records of the plain run that are missing; doubled: records that
are there twice; different: records with other content. All must be 0.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
NODES, MOST_RESTARTS = 3, 5
CELLS = ("--task", "sum", "--length", "64,96,128", "--set", "contexts=8", "questions=3", "pause=0.08", "--no-perf")
WORKER = re.compile(r"^Worker \S+:(\d+) on", re.MULTILINE)
COMMAND = (
    sys.executable,
    "-c",
    "from evals.report import plots; plots.draw = lambda *_: []\nfrom evals.cli.evaluate import main; main()",
)
"""The command without its plots, which would take most of the time."""


@dataclass
class Totals:
    """What was killed, and what the runs had lost at their end.

    failed: runs that ended with a cell that had lost three workers in a row. lost_drivers: that Ray ended with the node
    that they were connected to. The same command went on with both.
    """

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    failed: int = 0
    lost_drivers: int = 0

    def good(self) -> bool:
        """Whether no record was lost, doubled or different."""
        return not (self.lost or self.doubled or self.different)

    def compare(self, plain: Path, other: Path) -> None:
        """Count what differs between two run folders."""
        from evals.records.read import read_answers

        wanted, found = list(read_answers(plain)), list(read_answers(other))
        keys = Counter(key for key, _ in found)
        self.lost += len({key for key, _ in wanted} - keys.keys())
        self.doubled += sum(count - 1 for count in keys.values())
        self.different += len(set(found) - set(wanted))


class ThreeNodes:
    """A Ray cluster of three raylets on this machine, each with one processor. client: where Ray's client connects."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        head = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.client = f"ray://127.0.0.1:{port}"
        self.others: list[Any] = [self.cluster.add_node(num_cpus=1) for _ in range(NODES - 1)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def replace(self, index: int) -> None:
        """Kill the raylet of a node that is not the head, with its worker; start another."""
        self.cluster.remove_node(self.others.pop(index), allow_graceful=False)
        self.others.append(self.cluster.add_node(num_cpus=1))

    def stop(self) -> None:
        self.cluster.shutdown()


class Sweep:
    """One command that is started again and again until it ends by itself."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = command, log
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as err:
            return subprocess.Popen([*COMMAND, *self.command], stdout=subprocess.DEVNULL, stderr=err)

    def restart(self) -> None:
        self.process.wait()
        self.process = self._start()

    def workers(self) -> list[int]:
        """Process ids of the workers that have reported, dead ones among them."""
        return [int(pid) for pid in WORKER.findall(self.log.read_text(encoding="utf-8", errors="replace"))]

    def over(self) -> bool:
        return self.process.poll() is not None


def strike(target: str, sweep: Sweep, nodes: ThreeNodes, source: random.Random) -> bool:
    """Kill something; False where it was gone already."""
    if target == "driver":
        sweep.process.kill()
        sweep.restart()
        return True
    if target == "node":
        nodes.replace(source.randrange(len(nodes.others)))
        return True
    with suppress(ProcessLookupError):
        os.kill(source.choice(sweep.workers()), 9)
        return True
    return False


def campaign(kills: int, seed: int, nodes: ThreeNodes, folder: Path, targets: Sequence[str]) -> Totals:
    """Sweeps with kills in between, until that many hit."""
    from standins import write_preset

    totals, source = Totals(), random.Random(seed)
    models = ",".join(str(write_preset(folder, name, settings={"factor": factor})) for name, factor in NAMES.items())
    common = ["--model", models, "--random-weights", "--device", "cpu", *CELLS]
    subprocess.run([*COMMAND, *common, "--output", str(folder / "plain")], check=True, capture_output=True)
    while totals.kills.total() < kills:
        output = folder / f"round{totals.rounds}"
        command = [*common, "--ray", nodes.address, "--output", str(output)]
        sweep = Sweep(command, folder / f"round{totals.rounds}.log")
        while not sweep.over():
            time.sleep(source.uniform(0.2, 2))
            if totals.kills.total() < kills and sweep.workers() and not sweep.over():
                target = source.choice(targets)
                totals.kills[target] += strike(target, sweep, nodes, source)
        for _ in range(MOST_RESTARTS):
            if sweep.process.returncode == 0:
                break
            totals.failed += sweep.process.returncode == 1
            totals.lost_drivers += sweep.process.returncode != 1
            sweep.restart()
            sweep.process.wait()
        assert sweep.process.returncode == 0, sweep.log.read_text(encoding="utf-8")
        totals.compare(folder / "plain", output)
        totals.rounds += 1
    return totals


NAMES = {"a": 1, "b": 3}
"""Models of the sweep, and the factor that tells their answers apart."""


def prepare(folder: Path) -> None:
    """Let every process that starts from here know the stand-ins, and run its arithmetic in one thread."""
    path = [str(folder), str(TESTS), str(TESTS.parent)]
    os.environ["PYTHONPATH"] = os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "120"}
    sys.path[:0] = path
    from standins import write_plugins

    write_plugins(folder)


def main() -> None:
    """Print the totals; exit code 1 where anything was lost, doubled or different."""
    parser = argparse.ArgumentParser(description="Kill parts of a sweep on Ray and compare its records.")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name, "plugins"))
        nodes = ThreeNodes()
        try:
            totals = campaign(options.kills, options.seed, nodes, Path(name), ("worker", "worker", "node", "driver"))
        finally:
            nodes.stop()
    print(totals)
    sys.exit(not totals.good())


if __name__ == "__main__":
    main()
