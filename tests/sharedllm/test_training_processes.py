"""Training by two processes: killed and resumed, it ends with the weights of a run that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from not_empty import not_empty
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(
    os.environ.get("SHAREDLLM_CLUSTER") != "1", reason="takes minutes: set SHAREDLLM_CLUSTER=1"
)
METHODS = {
    "sharedllm": {"chunk_size": 64, "ratios": [8, 1], "lower_layers": 2, "policy": "maxsim"},
    "beacon": {"chunk_size": 64, "window": 32, "ratios": [2, 4]},
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def command(name: str, base: Path, texts: Path, output: Path, *more: str) -> list[str]:
    """Two processes that train. Half of the batches are without context: on one process and not on the other, too."""
    return [
        *(*TORCHRUN, "-m", "sharedllm.training.cli", "--method", name),
        *("--base", str(base), "--data", str(texts / "words.txt")),
        *("--steps", "12", "--log-every", "1", "--checkpoint-every", "3", "--output", str(output)),
        *("--set", f"method={json.dumps(METHODS[name])}", "--set", "windows=2", "--set", "chunks=[1]"),
        *("--set", "running=32", "--set", "drop_context=0.5", "--set", "needles=[]", "--set", "seed=3", *more),
    ]


def start(words: list[str]) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(words, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)


def ended(words: list[str]) -> tuple[int, str]:
    """Exit code and stderr; stdout has one summary, whatever the number of processes."""
    process = start(words)
    out, err = process.communicate(timeout=600)
    assert [next(iter(json.loads(line))) for line in out.splitlines()] == ["output"] * (process.returncode == 0)
    return process.returncode, err


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in sorted((folder / "adapter").glob("*.safetensors")) for n, t in load_file(f).items()}


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_that_are_killed_resume_to_the_same_weights(
    name: str, tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, err = ended(command(name, tiny_llama, texts, whole))
    assert code == 0, err
    assert json.loads((whole / "run.json").read_text())["processes"] == 2

    process = start(command(name, tiny_llama, texts, killed))
    while not (killed / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1)  # the workers have groups of their own, and end with the launcher
    code, err = ended(command(name, tiny_llama, texts, killed))
    assert code == 0, err
    assert "step 1/12" not in err
    mine, expected = weights(killed), weights(whole)
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[name], expected[name]) for name in not_empty(mine))

    code, err = ended(command(name, tiny_llama, texts, killed, "--steps", "14", "--max-seconds", "0"))
    assert code == 0, err  # both processes stop after the same step
    assert torch.load(killed / "checkpoint.pt", weights_only=True)["step"] == 13
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = command(name, tiny_llama, texts, killed)[len(TORCHRUN) :]
    done = subprocess.run([sys.executable, *alone], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "what differs: processes" in done.stderr
