"""From a specification to a finished run: plan, check, execute, report, and what the terminal shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from evals.cli import run_file
from evals.cli.log import Talk, talking
from evals.cli.overview import show_overview
from evals.cli.pipes import PipeConsole
from evals.cli.terminal import closing, last_line, plan_times, show_plan, show_results
from evals.errors import UserError
from evals.records.json import Json
from evals.records.models import CellState
from evals.records.read import RUN_FILE
from evals.records.shards import shards_below
from evals.records.store import RunStore, StoreError
from evals.run.answering import Spent
from evals.run.cluster.connect import Cluster, connected
from evals.run.difference import first_difference
from evals.run.dry_run import planned
from evals.run.engine import Engine
from evals.run.environment import environment
from evals.run.grid import Cell, check, check_gpus, check_unique, plan
from evals.run.growth import run_key, take_up
from evals.run.identity import SCHEMA
from evals.run.plan_record import record_plan
from evals.run.progress import Progress
from evals.run.shards import Shard, Split, part
from evals.run.signals import Terminated, terminable
from evals.run.spec import Logger, RunSpec
from evals.run.stream import Stream
from evals.safe_text import plain_line

if TYPE_CHECKING:  # pandas takes seconds: not before it is needed
    from evals.report.frames import Data

RUNS = Path("runs")
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as shells count them: 128 and the number of the signal."""


@dataclass(frozen=True)
class Way:
    """How a grid is run, which changes no result. output: the run folder; None: below `RUNS`.

    shard: the part of the grid to run; None: all of it. earlier: a run whose measured times correct the plan.
    talk: how much is said meanwhile. logger: takes the cells as they finish.
    cluster: whose workers run the cells; None: this process does.
    """

    output: Path | None
    command: Sequence[str]
    shard: Shard | None = None
    earlier: Path | None = None
    talk: Talk = field(default_factory=Talk)
    logger: Logger | None = None
    cluster: Cluster | None = None

    @classmethod
    def of(
        cls,
        output: Path | None,
        command: Sequence[str],
        shard: str | None,
        earlier: Path | None,
        talk: Talk,
        logger: Logger | None,
    ) -> Way:
        """From the values of the options; `shard` as `I/N`. Raises UserError for one that is no part."""
        return cls(output, command, Shard.parse(shard) if shard is not None else None, earlier, talk, logger)


def dry_run(spec: RunSpec, way: Way, out: PipeConsole) -> int:
    """Print the plan; nothing is loaded, fetched or written.

    Without `way.earlier` the run in `way.output`, if there is one, corrects the estimate.
    """
    cells = plan(spec)
    if way.shard is not None:
        cells = [cells[at] for at in Split.of(cells, spec, way.shard.count).places[way.shard.index - 1]]
    found = planned(cells, spec, _earlier(way.earlier, way.output))
    rows, time_s = found.rows, found.time
    show_plan(out, rows)
    plan_times(out, time_s)
    entries: list[Json] = [
        {
            "model": row.cell.model.name,
            "task": row.cell.task.name,
            "length": row.cell.length,
            "status": "planned",
            "metrics": {},
            "n": row.samples,
            "tokens": row.tokens,
            "weight_bytes": row.weight_bytes,
            "state_bytes": row.state_bytes,
            "dense_kv_bytes": row.kv_bytes,
            "planned_s": row.seconds,
        }
        for row in rows
    ]
    estimated = {
        "gpu": time_s.device.name,
        "gpu_hours": time_s.hours,
        "wall_hours": {str(count): seconds / 3600 for count, seconds in time_s.walls().items()},
        "assumes": time_s.assumes,
    }
    whole = {"run": str(way.output) if way.output else None, "cells": entries, "failed": 0, "plan": estimated}
    last_line(out, whole, "Nothing was run: leave --dry-run out to start.", way.talk.json)
    return 0


def _earlier(named: Path | None, output: Path | None) -> list[Path]:
    """The runs that an estimate learns from."""
    if named is not None:
        return shards_below(named) or [named]
    if output is None:
        return []
    return [output] if (output / RUN_FILE).exists() else shards_below(output)


def start(
    asked: Callable[..., RunSpec],
    runtime: Callable[[], Json],
    way: Way,
    ray: str | None,
    out: PipeConsole,
    err: PipeConsole,
) -> int:
    """Run a grid here, or on the cluster at the address `ray`. Returns the exit code.

    asked: makes the specification of the fields that `runtime` gives where the GPUs are.
    """
    if ray is None:
        return execute(asked(**runtime()), way, out, err)
    with connected(ray) as cluster:
        return execute(asked(**cluster.call(runtime)), replace(way, cluster=cluster), out, err)


def execute(spec: RunSpec, way: Way, out: PipeConsole, err: PipeConsole) -> int:
    """Run the grid or one part of it, or go on with it. Returns the exit code of the command line contract.

    Ctrl-C and SIGTERM end the run with a sentence on how to go on, and exit codes 130 and 143.
    """
    begin = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the run has its own bar
    try:
        with terminable(), talking(way.talk, err):
            return _execute(spec, way, out, err, begin)
    except (KeyboardInterrupt, Terminated) as stop:
        err.print(
            "Stopped. Everything measured so far is kept: the same command goes on from there.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED


def _execute(spec: RunSpec, way: Way, out: PipeConsole, err: PipeConsole, begin: float) -> int:
    cells = plan(spec)
    check(cells)
    check_gpus(cells, *_most_gpus(spec, way.cluster))
    check_unique(cells)
    key = run_key((cell.id for cell in cells), spec.device)
    folder = way.output or RUNS / key[:12]
    header: Json = {
        "command": list(way.command),
        "spec": spec.model_dump(mode="json"),
        "environment": way.cluster.call(environment, spec.device) if way.cluster else environment(spec.device),
        "identity_schema": SCHEMA,
    }
    if way.shard is not None:
        mine = part(cells, spec, way.shard, key)
        folder, cells, header["shard"] = way.shard.folder(folder), mine.cells, mine.entry
        key = run_key((cell.id for cell in cells), spec.device)
        share = f"{len(cells)} of {mine.entry.cells} cells, {mine.share:.0%} of the expected time"
        err.write_line(f"Shard {way.shard}: {share}.")
    spent = Spent(load_s=time.perf_counter() - begin)
    with RunStore(folder, key, header, lambda recorded: first_difference(recorded, header["spec"], cells)) as store:
        take_up(store.meta, cells, spec.device)
        record_plan(store.meta, cells, spec, _earlier(way.earlier, None))
        store.write_run_file(run_file.text(spec), covers=store.meta.cells.keys() <= {cell.id for cell in cells})
        with (
            Stream(way.logger, folder, header["spec"]) if way.logger else nullcontext() as stream,
            Progress(cells, err, not way.talk.quiet, stream.finish if stream else None) as progress,
        ):
            progress.log(f"{len(cells)} cells into {folder} on {spec.device}, {spec.dtype}, {_kernel(spec)}")
            workers = _run(cells, store, spec, progress, spent, way.cluster)
        report_begin = time.perf_counter()
        data, problem = _report(folder) if store.samples or store.perf else (None, None)
        end = time.perf_counter()
        timing = _timing(spent, wall_s=end - begin, report_s=end - report_begin, workers=workers)
        store.meta.timing.append(timing)
        try:
            store.save()
        except StoreError as error:
            problem = error
        states = {cell.id: store.meta.cells[cell.id] for cell in cells}
    rows = _outcome(cells, states, _by_cell(data))
    _show(out, rows, folder, data)
    closing(err, folder, timing, rows, way.talk.quiet, others=len(store.meta.cells) - len(cells))
    failed = [state for state in states.values() if state.status == "failed"]
    whole = {"run": str(folder), "cells": rows, "failed": len(failed)}
    last_line(out, whole, plain_line(f"Report: {folder / 'report.html'}"), way.talk.json)
    if problem:
        raise problem
    return exit_code(list(states.values()))


def _show(out: PipeConsole, rows: Sequence[Json], folder: Path, data: Data | None) -> None:
    """The results: in a pipe or file every cell, at a terminal in brief, with what they say."""
    elsewhere = f"{folder / 'summary.csv'}, {folder / 'report.html'}"
    if not (out.is_terminal and show_overview(out, rows, elsewhere)):
        show_results(out, rows, elsewhere)
    if out.is_terminal and data is not None:
        for sentence in _sentences(data):
            out.write_line(plain_line(sentence))


def _sentences(data: Data) -> list[str]:
    """The verdict of the report, and the first sentence of each of its findings."""
    from evals.report.findings import findings, verdict
    from evals.report.pairwise import contests

    found = contests(data)
    return [verdict(found), *(f"{each.title}: {each.sentences[0]}" for each in findings(data, found))]


def _most_gpus(spec: RunSpec, cluster: Cluster | None) -> tuple[int, str]:
    """How many GPUs a machine of the run has at most, and what to call the run in a sentence."""
    if cluster is not None and spec.device == "cuda":
        return cluster.most_gpus(), "each node of the Ray cluster"
    return (torch.cuda.device_count() if spec.device == "cuda" else 0), "this run"


def exit_code(states: Sequence[CellState]) -> int:
    """0: every cell ran or hit out of memory. 1: some cell failed. 2: none could run, as the input was bad."""
    failed = [state for state in states if state.status == "failed"]
    if not failed:
        return 0
    return 2 if len(failed) == len(states) and all(state.bad_input for state in failed) else 1


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
    driver.execute(cells)
    return max(driver.most_workers, 1)


def _timing(spent: Spent, wall_s: float, report_s: float, workers: int) -> dict[str, float]:
    """Where the wall time went. Loading is the import of methods and the fetching and reading of weights; the
    harness's share is all that is neither loading, model nor report. With several workers, load_s, model_s and
    harness_s are sums over them, and waiting for the last one counts as the harness's.
    """
    harness_s = workers * (wall_s - report_s) - spent.load_s - spent.model_s
    return {
        "wall_s": wall_s,
        "load_s": spent.load_s,
        "model_s": spent.model_s,
        "report_s": report_s,
        "harness_s": harness_s,
        "harness_share": harness_s / (workers * (wall_s - report_s) + report_s),
        **({"workers": workers} if workers > 1 else {}),
    }


def _report(folder: Path) -> tuple[Data, UserError | None]:
    """Write the report; return the run with its summary, and why the report could not be written if so."""
    from evals import report  # pandas, scipy and matplotlib take seconds: not before they are needed
    from evals.report.frames import Data
    from evals.report.load import load

    run = load(folder)
    try:
        return Data(run, report.write(run, folder)), None
    except UserError as error:
        return Data.of(run), error


def _by_cell(data: Data | None) -> dict[str, Json]:
    """The entries of the summary by cell."""
    from evals.report.summary import records

    return {} if data is None else {row["cell"]: row for row in records(data.summary)}


def _outcome(cells: Sequence[Cell], states: dict[str, CellState], summary: dict[str, Json]) -> list[Json]:
    """One entry per cell: its state, and from the summary what was measured."""
    rows = []
    for cell in cells:
        state, row = states[cell.id], summary.get(cell.id, {})
        rows.append(
            {
                "model": cell.model.name,
                "task": cell.task.name,
                "length": cell.length,
                "n": 0,
                "metrics": {},
                "metric": state.metric,
                "cell": cell.id,
                **row,
                "status": state.status,  # the engine's word: a summary only knows what was measured
                "error": state.error,
                "max_context": state.max_context,
                "beyond_window": state.beyond_window,
            }
        )
    return rows
