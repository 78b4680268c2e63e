"""The driver of `--ray` at the size of a large sweep: real cells, whose answers are invented and cost nothing.

    python benchmarks/driver_throughput.py --cells 10000 --samples 1000000 --output runs/driver
    python benchmarks/driver_throughput.py --cells 10000 --samples 20000 --steps engine --output runs/engine

Ten models on RULER at many lengths are planned as ever and go to workers on this machine, which invent the records of
`many_samples.py` in place of loading a model. `stream` starts the run, `resume` is the same command again on the
complete run, and `engine` runs the cells without Ray. Each step runs in a process of its own; printed, and written to
OUTPUT/driver_throughput.json: seconds (plan: of cells, ids and estimate; open: of the run folder; execute: of all
cells, starting the workers included), records a second of `execute`, CPU time and largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from invented_cells import Inventing, InventingWorker
from many_samples import HEADER, KEY, measured
from rich.console import Console

from evals.records.store import RunStore
from evals.run.answering import Spent
from evals.run.cluster import driver
from evals.run.cluster.connect import Cluster, connected
from evals.run.grid import plan
from evals.run.growth import take_up
from evals.run.plan_record import record_plan
from evals.run.progress import Progress
from evals.run.spec import RunSpec

MODELS = ("full", "truncated", "yarn", "streamingllm", "sharedllm", "snapkv", "tova", "knorm", "keydiff", "kvzip")
LENGTH = 1024


def specification(cells: int, samples: int) -> RunSpec:
    """RULER's thirteen subsets on ten models, at enough lengths for that many cells."""
    lengths = -(-cells // (13 * len(MODELS)))
    return RunSpec(
        tasks=["ruler"],
        models=[f"{name}-7b" for name in MODELS],
        lengths=[LENGTH * (1 + number) for number in range(lengths)],
        limit=-(-samples // cells),
        random_weights=True,
        perf=False,
    )


def execute(folder: Path, cells: int, samples: int, cluster: Cluster | None) -> dict[str, float]:
    """What the command does between its options and its report."""
    begin = time.perf_counter()
    spec = specification(cells, samples)
    planned = plan(spec)[:cells]
    with RunStore(folder, KEY, HEADER) as store:
        opened = time.perf_counter()
        take_up(store.meta, planned, spec.device)
        record_plan(store.meta, planned, spec)
        started = time.perf_counter()
        before = sum(map(len, store.samples.values()))
        with Progress(planned, Console(stderr=True, quiet=True)) as progress:
            if cluster is None:
                Inventing(store, spec, progress, Spent()).execute(planned)
            else:
                driver.Driver(store, spec, progress, Spent(), cluster).execute(planned)
        seconds = time.perf_counter() - started
        written = sum(map(len, store.samples.values())) - before
        assert all(state.status == "ok" for state in store.meta.cells.values())
    return {
        "plan_and_open_s": started - begin,
        "open_s": opened - begin,
        "execute_s": seconds,
        "records": written,
        "records_per_s": written / seconds,
    }


def stream(folder: Path, cells: int, samples: int) -> dict[str, float]:
    driver.Worker = InventingWorker  # type: ignore[misc]  # which class the driver hires
    with connected("2") as cluster:
        return execute(folder, cells, samples, cluster)


def engine(folder: Path, cells: int, samples: int) -> dict[str, float]:
    return execute(folder, cells, samples, None)


STEPS = {"stream": stream, "resume": stream, "engine": engine}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps one after the other and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--steps", default="stream,resume", help="which of them, in this order")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    chosen = parser.parse_args(arguments)
    found = {}
    for name in chosen.steps.split(","):
        found[name] = measured(STEPS[name], chosen.output / "run", chosen.cells, chosen.samples)
        print(name, json.dumps({key: round(value, 3) for key, value in found[name].items()}), flush=True)
    text = json.dumps({"cells": chosen.cells, "samples": chosen.samples, **found}, indent=1)
    (chosen.output / "driver_throughput.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
