"""The scripts of docs/slurm.md do what the page says, with stand-ins for `sbatch` and `sharedllm-eval`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from folders import ROOT

SCRIPTS = re.findall(r"^```slurm\n(.*?)^```$", (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8"), re.M | re.S)
ARRAY, MERGE, CHAIN = SCRIPTS

RUN = """#!/bin/bash
echo "$@" >> eval.log
[ -z "${SLOW:-}" ] && exit "${CODE:-0}"
trap 'kill "$nap"; sleep 0.3; echo stopped >> eval.log; exit 143' TERM
sleep 30 & nap=$!
touch running
wait "$nap"
"""
TOOLS = {
    "sharedllm-eval": RUN,
    "sharedllm-report": '#!/bin/bash\necho "$@" >> report.log\n',
    "sbatch": '#!/bin/bash\necho "$@" >> sbatch.log\n',
}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with the three scripts of the page, and stand-ins for the commands that they call."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in TOOLS.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for name, text in (("grid.sbatch", ARRAY), ("merge.sbatch", MERGE), ("chain.sbatch", CHAIN)):
        (tmp_path / name).write_text(text)
    return tmp_path


def start(cluster: Path, script: str, task: int = 1, **variables: str) -> subprocess.Popen[bytes]:
    """A job of an array, as Slurm starts it."""
    environment = {
        "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "17",
        "SLURM_ARRAY_TASK_ID": str(task),
        **variables,
    }
    return subprocess.Popen(["bash", script], cwd=cluster, env=environment, stderr=subprocess.PIPE)


def log(cluster: Path, name: str) -> list[str]:
    path = cluster / f"{name}.log"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=["array", "merge", "chain"])
def test_bash_can_read_a_script(script: str) -> None:
    assert script.startswith("#!/bin/bash\n")
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0


@pytest.mark.parametrize("script", ["grid.sbatch", "chain.sbatch"])
def test_each_job_of_the_array_runs_its_shard(cluster: Path, script: str) -> None:
    assert [start(cluster, script, task).wait() for task in (1, 2, 8)] == [0, 0, 0]
    shards = [line.partition("--shard ")[2] for line in log(cluster, "eval")]
    assert shards == ["1/8", "2/8", "8/8"]
    assert all("--output runs/grid" in line and "--length 8k,32k,128k" in line for line in log(cluster, "eval"))
    assert log(cluster, "sbatch") == []


def test_the_merge_reports_the_folder_that_the_jobs_write(cluster: Path) -> None:
    assert start(cluster, "merge.sbatch").wait() == 0
    assert log(cluster, "report") == ["runs/grid"]


def stopped(cluster: Path, **variables: str) -> int:
    """Exit code of a job that gets the signal of the time limit while its run is at work."""
    job = start(cluster, "chain.sbatch", task=3, SLOW="1", **variables)
    while not (cluster / "running").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    return job.wait(20)


def test_a_job_that_the_time_limit_ends_queues_its_successor(cluster: Path) -> None:
    assert stopped(cluster) == 0
    assert log(cluster, "eval")[-1] == "stopped", "the job ended before its run"
    assert log(cluster, "sbatch") == ["--dependency=afterany:17_3 --array=3 --export=ALL,ROUND=2 chain.sbatch"]


def test_a_chain_has_an_end(cluster: Path) -> None:
    assert stopped(cluster, ROUND="20") == 143
    assert log(cluster, "sbatch") == []


@pytest.mark.parametrize("code", ["0", "1", "2"])
def test_a_run_that_ends_by_itself_has_no_successor(cluster: Path, code: str) -> None:
    assert start(cluster, "chain.sbatch", CODE=code).wait() == int(code)
    assert log(cluster, "sbatch") == []
