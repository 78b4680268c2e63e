"""The options of `sharedllm-eval`: their types, ranges and one line of help each."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from evals.run.spec import Attention, Device, DType, Logger

MAX_SEED = (1 << 63) - 1
"""torch refuses seeds of more than 64 bits only after the models are loaded."""
MAX_COUNT = 1 << 40
"""The largest number of samples or requests that the command line takes."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sharedllm {version('sharedllm')}")
        raise typer.Exit


def _from_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """What a run file says takes the place of the defaults; its settings wait for those of the command line."""
    if path is not None and not ctx.resilient_parsing:
        from evals.cli.run_file import read

        assert ctx.command.callback is not None
        chosen = read(path, inspect.unwrap(ctx.command.callback))
        ctx.default_map, ctx.obj = chosen.options, chosen.settings
    return path


def _task_names(beginning: str) -> list[str]:
    from evals.registry import tasks

    return _completed(beginning, tasks())


def _model_names(beginning: str) -> list[str]:
    from evals.methods.presets import names

    return _completed(beginning, names())


def _completed(beginning: str, names: Iterable[str]) -> list[str]:
    """What the last of some names, separated by commas, may become."""
    before, comma, last = beginning.rpartition(",")
    return [before + comma + name for name in names if name.startswith(last)]


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="RUN.yaml",
        callback=_from_file,
        is_eager=True,
        help="File with the options of a run; those of the command line stand above it.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="TASK[:SUBSET][,...]", help="Benchmarks.", autocompletion=_task_names),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL[,...]",
        help="Presets, YAML preset files, or any causal model: folder, .gguf file, ORG/NAME.",
        autocompletion=_model_names,
    ),
]
Lengths = Annotated[
    list[str] | None, typer.Option("--length", metavar="TOKENS[,...]", help="Lengths: 8k,16k (1k = 1024 tokens).")
]
Limit = Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Samples per cell, at most.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the data of the tasks.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never contact the hub.")]
Output = Annotated[Path | None, typer.Option(help="Run folder; default: runs/HASH.")]
InParts = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Run the I-th of N parts of the grid, in a folder of its own."),
]
OnDevice = Annotated[Device, typer.Option(help="Where to run.")]
InDType = Annotated[DType, typer.Option(help="auto: bfloat16 on a GPU, float32 on the CPU.")]
Kernel = Annotated[Attention, typer.Option(help="Attention kernel; auto: the fastest for this device.")]
BatchSize = Annotated[int, typer.Option(min=1, max=1 << 20, help="Requests decoded together, for methods that can.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of generated data and random weights.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE ...",
        help="Settings of the tasks and models that declare the key; several may follow.",
    ),
]
MoreSettings = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", hidden=True)]
Contexts = Annotated[
    str | None, typer.Option(metavar="own,other,none", help="Short for --set task.context=own,other,none.")
]
Checkpoint = Annotated[Path | None, typer.Option(help="Folder with weights to use in place of the preset's.")]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Draw weights at random: only the preset's shape is used.")
]
MaxLen = Annotated[
    bool, typer.Option("--maxlen", help="With --task efficiency: find the longest context that fits in memory.")
]
Perf = Annotated[bool, typer.Option(help="Measure time and memory in a separate cold pass.")]
Reuse = Annotated[bool, typer.Option(help="Read each context once for all its questions.")]
OnRay = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Spread the cells over workers: of this machine, that many (a number), or of the Ray cluster there.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
PlanFrom = Annotated[
    Path | None, typer.Option(metavar="RUN_DIR", help="An earlier run whose measured times correct the plan.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what goes wrong.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show every sample.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Append progress, every sample and every warning to this file.")
]
Log = Annotated[Logger | None, typer.Option("--log", help="Send each cell to this dashboard when it finishes.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="End with one JSON object on a terminal too, as in a pipe or file.")
]
ShowList = Annotated[
    bool, typer.Option("--list", help="Show tasks and models; with --task or --model, their settings.")
]
Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and stop.")
]


def with_address(arguments: Sequence[str]) -> list[str]:
    """A command line in which `--ray` without an address has one: Typer knows no option with an optional value."""
    found: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:]):
        found.append(argument)
        if argument == "--ray" and (following is None or following.startswith("-") or "=" in following):
            found.append("local")
    return found
