"""How many RULER samples a second are made, without a model: text, ids and checks of each prompt.

    python benchmarks/generation_speed.py --length 128k --samples 1000

The tokenizer is that of a preset. Every task is made by one process; with several processes, each makes its share of
the samples. The cache on disk is a new, empty one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from evals.methods import presets, weights
from evals.methods.base import Runtime
from evals.methods.tokenizers import load_tokenizer
from evals.run.spec import parse_length
from evals.tasks.base import DataSource
from evals.tasks.ruler.task import Ruler, RulerSettings

TASKS = "niah_single_1,niah_multikey_2,niah_multikey_3,vt,cwe,fwe"
"""Those that need no texts."""


def made(
    task: str, preset: str, length: int, samples: int, seed: int, data: Path | None, cache: str
) -> dict[str, float]:
    """Seconds of wall and processor time for some samples of a task, and their mean number of tokens."""
    folder = weights.resolve_tokenizer(presets.load_preset(preset).weights, Runtime(offline=True))
    tokenizer = load_tokenizer(folder)
    os.environ["XDG_CACHE_HOME"] = cache
    wall, processor = time.perf_counter(), time.process_time()
    ruler = Ruler(task, RulerSettings(), DataSource(data))
    tokens = [len(instance.prompt) for instance in islice(ruler.instances(tokenizer, length, samples, seed), samples)]
    return {
        "samples": len(tokens),
        "tokens": sum(tokens) / len(tokens),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - processor,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--preset", default="full-135m", help="whose tokenizer is used")
    parser.add_argument("--length", default="128k")
    parser.add_argument("--samples", type=int, default=100, help="of each task")
    parser.add_argument("--processes", type=int, default=1, help="each with a seed of its own")
    parser.add_argument("--data-dir", type=Path, help="essays, SQuAD and HotpotQA (docs/ruler.md)")
    chosen = parser.parse_args(arguments)
    share = -(-chosen.samples // chosen.processes)
    for task in chosen.tasks.split(","):
        with (
            tempfile.TemporaryDirectory() as cache,
            multiprocessing.get_context("spawn").Pool(chosen.processes) as pool,
        ):
            jobs = [
                (task, chosen.preset, parse_length(chosen.length), share, seed, chosen.data_dir, cache)
                for seed in range(chosen.processes)
            ]
            found = pool.starmap(made, jobs)
        total, wall = sum(f["samples"] for f in found), max(f["wall_s"] for f in found)
        row = {
            "task": task,
            "samples": total,
            "tokens": round(found[0]["tokens"]),
            "wall_s": round(wall, 2),
            "per_s": round(total / wall, 2),
            "cpu_s_per_sample": round(sum(f["cpu_s"] for f in found) / total, 4),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
