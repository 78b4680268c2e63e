"""How much faster several workers run a sweep than one process, and whether their records are the same.

    python benchmarks/ray_speedup.py --output runs/speedup -- --task needle,perplexity --model full-135m,yarn-135m \
      --length 8k,32k,128k --limit 20 --offline

What stands after `--` goes to sharedllm-eval, once on the first GPU and once with `--ray`, into the folders `one` and
`all` of --output. Both are started anew, so that imports, loading and first calls count on either side. Ids of texts
that the first run has put on disk serve the second. A run that is already there is not made again: its time is kept in
`speedup.json`. Without GPUs, give --workers. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evals.records.models import PerfRecord
from evals.records.read import read_answers, read_records, read_run

RESULT = "speedup.json"
START = "from sharedllm.commands import evaluate; evaluate()"


def run(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds of wall time of sharedllm-eval, start and report included. Ends the program where it fails."""
    command = [sys.executable, "-c", START, *arguments, "--output", str(folder)]
    begin = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"sharedllm-eval ended with exit code {done.returncode}: see above.")
    return time.perf_counter() - begin


def first_tokens(folder: Path) -> dict[str, float]:
    """Seconds to the first token of each cell's cold pass, where it was measured."""
    found = (record for record in read_records(folder) if isinstance(record, PerfRecord))
    return {r.cell: r.ttft_s for r in found if r.ttft_s is not None}


def compare(one: Path, several: Path) -> dict[str, object]:
    """Cells, records, how many of them differ, and the median ratio of the cold passes' first tokens."""
    mine, others = dict(read_answers(one)), dict(read_answers(several))
    alone, beside = first_tokens(one), first_tokens(several)
    ratios = [beside[cell] / alone[cell] for cell in alone.keys() & beside.keys()]
    return {
        "cells": len(read_run(one).cells),
        "records": len(mine),
        "different": sum(mine.get(place) != others.get(place) for place in mine.keys() | others.keys()),
        "first_token_ratio": round(statistics.median(ratios), 3) if ratios else None,
    }


def main() -> None:
    """Run what is missing, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", help="on this machine; all its GPUs by default", default="")
    parser.add_argument("evaluation", nargs="+", help="arguments of sharedllm-eval, after --")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / RESULT
    seconds: dict[str, float] = json.loads(kept.read_text())["seconds"] if kept.exists() else {}
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    kinds = {"one": ([], {"CUDA_VISIBLE_DEVICES": first}), "all": (["--ray", *filter(None, [options.workers])], {})}
    for name, (extra, environment) in kinds.items():
        if name not in seconds:
            seconds[name] = round(run([*options.evaluation, *extra], options.output / name, environment), 1)
            kept.write_text(json.dumps({"seconds": seconds}) + "\n")
    found = compare(options.output / "one", options.output / "all")
    result = {"seconds": seconds, "speedup": round(seconds["one"] / seconds["all"], 2), **found}
    kept.write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
