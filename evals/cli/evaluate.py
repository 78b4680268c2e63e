"""The command `sharedllm-eval`. Only light imports here: `--help` and `--list` must answer at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from evals.cli import options
from evals.cli.command import new_app, run_command
from evals.cli.log import Talk
from evals.cli.pipes import PipeConsole
from evals.errors import UserError
from evals.records.json import Json
from evals.registry import canonical_task
from evals.run.spec import Attention, Device, DType, Logger, RunSpec, parse_length, resolve_runtime, split_list
from sharedllm.plain_yaml import assignments

if TYPE_CHECKING:
    from evals.cli.way import Way

PIPED_WIDTH = 200
"""Columns of a table that is written to a file or pipe, where there is no terminal to fit."""

app = new_app(completion=True)


@app.command(
    epilog="For example `sharedllm-eval --task needle --model full-135m,sharedllm-135m --length 1k,2k --limit 4`, or "
    "any model of yours under another method: `--model FOLDER --set method=streaming_llm`."
)
def evaluate(
    ctx: typer.Context,
    config: options.Config = None,
    task: options.Tasks = None,
    model: options.Models = None,
    length: options.Lengths = None,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    offline: options.Offline = False,
    output: options.Output = None,
    shard: options.InParts = None,
    device: options.OnDevice = Device.auto,
    dtype: options.InDType = DType.auto,
    attn: options.Kernel = Attention.auto,
    batch_size: options.BatchSize = 1,
    seed: options.Seed = 0,
    settings: options.Settings = None,
    more_settings: options.MoreSettings = None,
    context: options.Contexts = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    maxlen: options.MaxLen = False,
    perf: options.Perf = True,
    reuse: options.Reuse = True,
    ray: options.OnRay = None,
    dry_run: options.DryRun = False,
    plan_from: options.PlanFrom = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_file: options.LogFile = None,
    log: options.Log = None,
    as_json: options.AsJson = False,
    show_list: options.ShowList = False,
    version: options.Version = False,
) -> int:
    """Compare long-context methods by accuracy, memory and latency.

    Runs a grid of tasks, models and lengths; the same command again resumes it. The table goes to stdout, in a pipe or
    file its last line is one JSON object, progress goes to stderr. Exit code 0: every cell ran or was out of
    memory; 1: some cell failed; 2: bad input. `sharedllm-eval doctor` checks the installation.
    """
    out = _console(sys.stdout)
    tasks, models = [canonical_task(name) for name in split_list(task or [])], split_list(model or [])
    if show_list:
        return _show(tasks, models, out)
    pairs = [*(settings or []), *(more_settings or [])]
    asked = partial(
        RunSpec,
        tasks=_chosen_tasks(tasks, models, maxlen),
        models=models,
        lengths=_chosen_lengths(length),
        settings=_chosen_settings(ctx.obj or {}, pairs, context),
        seed=seed,
        random_weights=random_weights,
        checkpoint=checkpoint,
        data_dir=data_dir,
        offline=offline,
        limit=limit,
        batch_size=batch_size,
        reuse=reuse,
        perf=perf,
    )
    if dry_run and dtype is DType.auto:
        dtype = DType.bfloat16  # a plan counts for a GPU, here or not
    runtime = partial(resolve_runtime, device, dtype, attn)
    way = _way(output, shard, plan_from, Talk(quiet, verbose, log_file, as_json), log)
    with redirect_stdout(sys.stderr):  # Ray and trackio print: what is on stdout is ours alone
        if dry_run:
            return _plan(asked, runtime, way, out)
        return _execute(asked, runtime, way, out) if ray is None else _spread(asked, runtime, way, ray, device, out)


def _show(tasks: list[str], models: list[str], out: PipeConsole) -> int:
    from evals.cli.listing import show

    show(tasks, models, out)
    return 0


def _way(output: Path | None, shard: str | None, plan_from: Path | None, talk: Talk, log: Logger | None) -> Way:
    from evals.cli.way import Way
    from evals.run.shards import Shard

    part = None if shard is None else Shard.parse(shard)
    return Way(output, ["sharedllm-eval", *sys.argv[1:]], part, plan_from, talk, log)


def _plan(asked: Callable[..., RunSpec], runtime: Callable[[], Json], way: Way, out: PipeConsole) -> int:
    from evals.cli.dry_run import dry_run

    return dry_run(asked(**runtime()), way, out)


def _execute(asked: Callable[..., RunSpec], runtime: Callable[[], Json], way: Way, out: PipeConsole) -> int:
    """Run a grid. asked: makes the specification of the fields that `runtime` gives where the GPUs are."""
    from evals.cli.launch import execute

    return execute(asked(**runtime()), way, out, PipeConsole(file=sys.stderr))


def _spread(
    asked: Callable[..., RunSpec], runtime: Callable[[], Json], way: Way, address: str, device: Device, out: PipeConsole
) -> int:
    """Run a grid on the cluster at an address, whose workers import while this process does."""
    from evals.run.cluster.connect import connected

    with connected(address, gpus=device is not Device.cpu) as cluster:
        return _execute(asked, partial(cluster.call, runtime), replace(way, cluster=cluster), out)


def _chosen_settings(of_file: Mapping[str, Any], pairs: list[str], context: str | None) -> dict[str, Any]:
    """Those of a run file, `--set` over them, and what `--context` is short for."""
    return {**of_file, **assignments(pairs)} | ({} if context is None else {"task.context": context})


def _chosen_tasks(tasks: list[str], models: list[str], maxlen: bool) -> list[str]:
    """The tasks of a run; `--maxlen` turns efficiency into the search for the longest context."""
    if not tasks or not models:
        raise UserError("Name at least one --task and one --model: `sharedllm-eval --list` shows all.")
    if not maxlen:
        return tasks
    if "efficiency" not in tasks:
        raise UserError("--maxlen needs --task efficiency.")
    return ["efficiency-maxlen" if name == "efficiency" else name for name in tasks]


def _chosen_lengths(length: Sequence[str] | None) -> list[int] | None:
    """The lengths of a run; None, which is each task's own lengths, only where none was asked for."""
    if length is None:
        return None
    lengths = [parse_length(text) for text in split_list(length)]
    if not lengths:
        raise UserError("--length names no length: give whole tokens, as 4096 or 4k, or leave it out.")
    return lengths


def _console(file: TextIO) -> PipeConsole:
    return PipeConsole(file=file) if file.isatty() else PipeConsole(file=file, width=PIPED_WIDTH)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `sharedllm-eval`, and of `sharedllm-eval doctor`."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["doctor"]:
        from evals.cli.doctor import app as doctor

        run_command(doctor, "sharedllm-eval doctor", given[1:])
    run_command(app, "sharedllm-eval", options.with_address(given))
