"""The command `sharedllm-eval`. Only light imports here: `--help` and `--list` must answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from evals.errors import UserError
from evals.run.spec import (
    Attention,
    Device,
    DType,
    RunSpec,
    parse_length,
    parse_settings,
    resolve_runtime,
    split_list,
)

PIPED_WIDTH = 200
"""Columns of a table that goes into a file or pipe, where there is no terminal to fit."""
MAX_SEED = (1 << 63) - 1
"""torch refuses seeds of more than 64 bits only after the models are loaded."""
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's own error for a command line that it cannot read; it exports the derived one alone."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def evaluate(
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK[:SUBSET][,...]", help="Benchmarks; repeat or use commas.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL[,...]", help="Presets, or YAML files of the same form.")
    ] = None,
    length: Annotated[
        list[str] | None, typer.Option(metavar="TOKENS[,...]", help="Lengths in tokens: 8k,16k (1k = 1024).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many samples a cell.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the data of the tasks.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    output: Annotated[Path | None, typer.Option(help="Run folder; by default runs/HASH.")] = None,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.auto,
    dtype: Annotated[DType, typer.Option(help="auto: bfloat16 on a GPU, float32 on the CPU.")] = DType.auto,
    attn: Annotated[Attention, typer.Option(help="Attention kernel; auto: fastest sdpa.")] = Attention.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests at once, for methods that can.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of random data and weights.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the task or model that has the key."),
    ] = None,
    more_settings: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    context: Annotated[
        str | None, typer.Option(metavar="own,other,none", help="Short for --set task.context=...")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder with weights instead of the preset's.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="The preset's shape only.")] = False,
    maxlen: Annotated[
        bool, typer.Option("--maxlen", help="Task efficiency: search the longest context that fits.")
    ] = False,
    perf: Annotated[bool, typer.Option(help="Measure time and memory in a cold pass.")] = True,
    reuse: Annotated[bool, typer.Option(help="Read a context once for all its questions.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show tasks and models; with --task or --model their settings.")
    ] = False,
) -> int:
    """Compare long-context methods by accuracy, memory and latency.

    A grid of tasks, models and lengths; the same command again goes on where it stopped. The table is on
    stdout, its last line is one JSON object, progress is on stderr. Exit code 0: all ran; 1: some cell failed;
    2: bad input.
    """
    out, err = _console(sys.stdout), Console(stderr=True)
    tasks, models = split_list(task or []), split_list(model or [])
    if show_list:
        from evals.cli.listing import show

        show(tasks, models, out)
        return 0
    if maxlen:
        if "efficiency" not in tasks:
            raise UserError("--maxlen goes with --task efficiency.")
        tasks = ["efficiency-maxlen" if name == "efficiency" else name for name in tasks]
    if not tasks or not models:
        raise UserError("Name at least one --task and one --model: `sharedllm-eval --list` shows all.")
    assigned: dict[str, Any] = parse_settings([*(settings or []), *(more_settings or [])])
    if context is not None:
        assigned["task.context"] = context
    spec = RunSpec(
        tasks=tasks,
        models=models,
        lengths=[parse_length(text) for text in split_list(length or [])] or None,
        settings=assigned,
        seed=seed,
        random_weights=random_weights,
        checkpoint=checkpoint,
        data_dir=data_dir,
        offline=offline,
        limit=limit,
        batch_size=batch_size,
        reuse=reuse,
        perf=perf,
        **resolve_runtime(device, dtype, attn),
    )
    from evals.cli import launch

    if dry_run:
        return launch.dry_run(spec, output, out)
    return launch.execute(spec, output, ["sharedllm-eval", *sys.argv[1:]], out, err)


def _console(file: Any) -> Console:
    return Console(file=file) if file.isatty() else Console(file=file, width=PIPED_WIDTH)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a person's mistake is one sentence on stderr and exit code 2, a bug keeps its traceback."""
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="sharedllm-eval")
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    except UsageError as error:
        print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
        code = 2
    sys.exit(code)
