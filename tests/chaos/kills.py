"""Kills runs at random moments and compares what they end with to an undisturbed run.

python tests/chaos/kills.py --kills 150 [--seed 0] [--measured 10]

Each round is one run folder. A process works on it and is ended by SIGKILL after a random time, again and again; then
the same command runs to its end. Lost: records of the undisturbed run that are missing. Doubled: records that are there
twice. Different: equal records in another order, or with other content. All three must be 0.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
KILLS_PER_ROUND = 8
ANSWERED = ("--task", "sum", "--length", "64,96", "--set", "contexts=6", "questions=3", "pause=0.01")
MEASURED = ("--task", "efficiency", "--length", "64,96", "--set", "repeats=2", "new_tokens=4", "query_tokens=8")


@dataclass
class Totals:
    """What the campaign found. retried: runs whose first end had a failed cell, as after two deaths of one cell."""

    rounds: int = 0
    kills: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    retried: int = 0

    def good(self) -> bool:
        """Whether nothing was lost, doubled or different."""
        return not (self.lost or self.doubled or self.different)


def prepare() -> None:
    """Import everything once: the processes to kill are forks and start at once."""
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    from evals import registry

    registry.METHODS["toy"], registry.TASKS["sum"] = "standins:Toy", "standins:Sum"
    registry._targets.cache_clear()
    import standins  # noqa: F401


def start(arguments: Sequence[str]) -> int:
    """A process that works on a run, in a process group of its own; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from evals.cli.evaluate import main

    code = 70
    try:
        main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a process, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(arguments: Sequence[str], seconds: float) -> bool:
    """Let a process work for some time, then kill it with its children; False where it had ended before."""
    pid = start(arguments)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    return True


def records(folder: Path, measured: bool) -> list[str]:
    """Every record as text, in the order of the file."""
    from unshared import shared_records

    return shared_records(folder, ["metrics"] if measured else [])  # metrics of measured cells are times


def compare(totals: Totals, wanted: list[str], found: list[str]) -> None:
    """Count what differs between an undisturbed run and one that was killed."""
    totals.lost += sum((Counter(wanted) - Counter(found)).values())
    totals.doubled += sum(count - 1 for count in Counter(found).values() if count > 1)
    totals.different += wanted != found


def campaign(kills: int, seed: int, measured: bool = False, totals: Totals | None = None) -> Totals:
    """Kill until that many kills hit a working process."""
    from standins import write_preset

    totals, source = totals or Totals(), random.Random(seed)
    goal = totals.kills + kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ["--model", str(write_preset(folder, "a")), "--random-weights", "--device", "cpu"]
        common += MEASURED if measured else ANSWERED

        def command(output: str) -> list[str]:
            return [*common, "--output", str(folder / output)]

        begin = time.monotonic()
        assert wait(start(command("whole"))) == 0
        whole_s = time.monotonic() - begin
        wanted = records(folder / "whole", measured)
        while totals.kills < goal:
            output = f"round{totals.rounds}"
            totals.rounds += 1
            for _ in range(KILLS_PER_ROUND):
                if totals.kills == goal or not killed(command(output), source.uniform(0, whole_s)):
                    break
                totals.kills += 1
            code = wait(start(command(output)))
            if code == 1:  # a cell that two kills in a row hit before its first record
                totals.retried += 1
                code = wait(start(command(output)))
            assert code == 0, f"{output} ended with exit code {code}"
            compare(totals, wanted, records(folder / output, measured))
    return totals


def main() -> None:
    """Print the totals; exit code 1 where anything was lost, doubled or different."""
    parser = argparse.ArgumentParser(description="Kill runs at random moments and compare their records.")
    parser.add_argument("--kills", type=int, default=150, help="kills of runs that answer")
    parser.add_argument("--measured", type=int, default=10, help="kills of runs that measure in a process of its own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepare()
    totals = campaign(options.kills, options.seed)
    if options.measured:
        campaign(options.measured, options.seed + 1, measured=True, totals=totals)
    print(totals)
    sys.exit(not totals.good())


if __name__ == "__main__":
    main()
