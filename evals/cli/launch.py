"""From a specification to a finished run: plan, check, execute, report, and what the terminal shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Thread

import torch
import transformers

from evals.cli import run_file
from evals.cli.dry_run import earlier_runs
from evals.cli.log import talking
from evals.cli.outcome import by_cell, exit_code, import_report, outcome, show, timing_of, write_report
from evals.cli.pipes import PipeConsole
from evals.cli.terminal import closing, last_line
from evals.cli.way import Way
from evals.records.json import Json
from evals.records.store import RunStore, StoreError
from evals.report.words import counted
from evals.run import judging
from evals.run.answering import Spent
from evals.run.checks.inputs import check, check_gpus, check_unique
from evals.run.checks.prompts import check_prompts
from evals.run.checks.sampling import check_sampling
from evals.run.cluster.connect import Cluster
from evals.run.difference import first_difference
from evals.run.engine import Engine
from evals.run.environment import environment
from evals.run.grid import Cell, plan
from evals.run.growth import run_key, take_up
from evals.run.identity import SCHEMA
from evals.run.plan_record import record_plan
from evals.run.progress import Progress
from evals.run.shards import part
from evals.run.signals import terminable
from evals.run.spec import RunSpec
from evals.run.stream import Stream
from evals.safe_text import plain_line

RUNS = Path("runs")
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as shells count them: 128 and the number of the signal."""


def execute(spec: RunSpec, way: Way, out: PipeConsole, err: PipeConsole) -> int:
    """Run the grid or one part of it, or go on with it. Returns the exit code of the command line contract.

    Ctrl-C and SIGTERM end the run with a sentence on how to go on, and exit codes 130 and 143.
    """
    begin = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the run has its own bar
    with terminable():
        try:
            with talking(way.talk, err):
                return _execute(spec, way, out, err, begin)
        except KeyboardInterrupt:
            err.write_line("Stopped. Everything measured so far is kept: the same command goes on from there.")
            return TERMINATED if terminable.told else INTERRUPTED


def _execute(spec: RunSpec, way: Way, out: PipeConsole, err: PipeConsole, begin: float) -> int:
    cells = _checked(spec, way.cluster)
    key = run_key((cell.id for cell in cells), spec.device)
    folder = way.output or RUNS / key[:12]
    header = _header(spec, way)
    if way.shard is not None:
        mine = part(cells, spec, way.shard, key)
        folder, cells, header["shard"] = way.shard.folder(folder), mine.cells, mine.entry
        key = run_key((cell.id for cell in cells), spec.device)
        share = f"{len(cells)} of {mine.entry.cells} cells, {mine.share:.0%} of the expected time"
        err.write_line(f"Shard {way.shard}: {share}.")
    spent = Spent(load_s=time.perf_counter() - begin)
    with RunStore(folder, key, header, lambda recorded: first_difference(recorded, header["spec"], cells)) as store:
        take_up(store.meta, cells, spec.device)
        record_plan(store.meta, cells, spec, earlier_runs(way.earlier, None))
        store.write_run_file(run_file.text(spec), covers=store.meta.cells.keys() <= {cell.id for cell in cells})
        with (
            Stream(way.logger, store, header["spec"]) if way.logger else nullcontext() as stream,
            Progress(cells, err, not way.talk.quiet, stream.finish if stream else None) as progress,
        ):
            progress.log(f"{counted(len(cells), 'cell')} into {folder} on {spec.device}, {spec.dtype}, {_kernel(spec)}")
            workers = _run(cells, store, spec, progress, spent, way.cluster)
            judging.judge(cells, store, spent, progress.log)
        report_begin = time.perf_counter()
        data, problem = write_report(folder) if store.samples or store.perf else (None, None)
        end = time.perf_counter()
        timing = timing_of(spent, wall_s=end - begin, report_s=end - report_begin, workers=workers)
        store.meta.timing.append(timing)
        try:
            store.save()
        except StoreError as error:
            problem = error
        states = {cell.id: store.meta.cells[cell.id] for cell in cells}
    rows = outcome(cells, states, by_cell(data))
    show(out, rows, folder, data)
    closing(err, folder, timing, rows, way.talk.quiet, others=len(store.meta.cells) - len(cells))
    failed = [state for state in states.values() if state.status == "failed"]
    whole = {"run": str(folder), "cells": rows, "failed": len(failed)}
    last_line(out, whole, plain_line(f"Report: {folder / 'report.html'}"), way.talk.json)
    if problem:
        raise problem
    return exit_code(list(states.values()))


def _checked(spec: RunSpec, cluster: Cluster | None) -> list[Cell]:
    """The cells of a run, of which nothing is known that would keep one from running. Raises UserError."""
    cells = plan(spec)
    check(cells)
    check_sampling(cells, spec.limit)
    check_prompts(cells)
    judging.check(cells)
    check_gpus(cells, *_most_gpus(spec, cluster))
    check_unique(cells)
    return cells


def _header(spec: RunSpec, way: Way) -> Json:
    """What `run.json` says of this start: the command, its specification, and the machine that runs it."""
    return {
        "command": list(way.command),
        "spec": spec.model_dump(mode="json"),
        "environment": way.cluster.call(environment, spec.device) if way.cluster else environment(spec.device),
        "identity_schema": SCHEMA,
    }


def _most_gpus(spec: RunSpec, cluster: Cluster | None) -> tuple[int, str]:
    """How many GPUs a machine of the run has at most, and what to call the run in a sentence."""
    if cluster is not None and spec.device == "cuda":
        return cluster.most_gpus(), "each node of the Ray cluster"
    return (torch.cuda.device_count() if spec.device == "cuda" else 0), "this run"


def _kernel(spec: RunSpec) -> str:
    return f"{spec.attn} ({', '.join(spec.kernels)})" if spec.kernels else spec.attn


def _run(
    cells: Sequence[Cell], store: RunStore, spec: RunSpec, progress: Progress, spent: Spent, cluster: Cluster | None
) -> int:
    """Execute the cells, here or on a cluster. Returns how many workers there were."""
    if cluster is None:
        Engine(store, spec, progress, spent).execute(cells)
        return 1
    from evals.run.cluster.driver import Driver

    driver = Driver(store, spec, progress, spent, cluster)
    Thread(target=import_report, name="report").start()  # this process mostly waits
    driver.execute(cells)
    return max(driver.most_workers, 1)
