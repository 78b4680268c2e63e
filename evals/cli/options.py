"""The options of `sharedllm-eval`: their types, ranges and one line of help each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from evals.run.spec import Attention, Device, DType

MAX_SEED = (1 << 63) - 1
"""torch refuses seeds of more than 64 bits only after the models are loaded."""
MAX_COUNT = 1 << 40
"""The largest number of samples or requests that the command line takes."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sharedllm {version('sharedllm')}")
        raise typer.Exit


Tasks = Annotated[list[str] | None, typer.Option("--task", metavar="TASK[:SUBSET][,...]", help="Benchmarks.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL[,...]",
        help="Presets, YAML preset files, or any causal model: folder, .gguf file, ORG/NAME.",
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
