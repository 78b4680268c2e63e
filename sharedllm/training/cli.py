"""The command `sharedllm-train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from sharedllm.errors import UserError
from sharedllm.plain_yaml import assignments

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MOST_STEPS = 10**9


@app.command()
def train(
    base: Annotated[str, typer.Option(help="Base model: folder or hub name.")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, log, plot and adapter.")],
    data: Annotated[Optional[list[Path]], typer.Option(help=".txt, .jsonl(.gz|.xz) or .tokens.npz; repeat.")] = None,  # noqa: UP045
    heldout: Annotated[Optional[list[Path]], typer.Option(help="Texts for the evaluation at the end.")] = None,  # noqa: UP045
    method: Annotated[
        str, typer.Option(help="What is trained: sharedllm, a rival or a method of another package.")
    ] = "sharedllm",
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of the method; of sharedllm: small (default), needle (its second stage), joint or paper."),
    ] = None,
    steps: Annotated[Optional[int], typer.Option(help="Optimizer steps in all.")] = None,  # noqa: UP045
    init: Annotated[Optional[Path], typer.Option(help="Adapter to start from.")] = None,  # noqa: UP045
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE ...", help="Training settings; several may follow."),
    ] = None,
    more: Annotated[Optional[list[str]], typer.Argument(metavar="KEY=VALUE", hidden=True)] = None,  # noqa: UP045
    weight: Annotated[Optional[list[float]], typer.Option(help="Share of each --data file; 0: unused.")] = None,  # noqa: UP045
    max_seconds: Annotated[Optional[float], typer.Option(help="Stop with a checkpoint after that long.")] = None,  # noqa: UP045
    checkpoint_every: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Steps between checkpoints.")] = 500,
    log_every: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Steps between log lines.")] = 20,
    shard_mb: Annotated[int, typer.Option(min=1, max=2**20, help="Largest adapter file.")] = 1024,
) -> None:
    """Train an adapter. The same command again resumes from the last checkpoint in --output."""
    from sharedllm.training.interruption import Interrupted, watching
    from sharedllm.training.methods import registry
    from sharedllm.training.settings import preset_in

    try:
        changes = assignments([*(set_ or []), *(more or [])])
        if steps is not None:
            if "steps" in changes:
                raise UserError("--steps and --set steps are the same setting: give one of them.")
            changes["steps"] = steps
        with watching() as interruption:
            trained = registry.method(method)
            chosen = preset_in(trained.presets, trained.preset if preset is None else preset, changes)
            from sharedllm.training.files import Files
            from sharedllm.training.run import Pace, run

            files = Files(base, data or [], weight or [], heldout or [], init, output)
            pace = Pace(checkpoint_every, log_every, max_seconds, shard_mb * 2**20)
            summary = run(chosen, files, pace, interruption, trained)
    except UserError as error:
        _fail(str(error))
    except Interrupted as error:
        _fail(str(error), error.exit_code)
    if summary:  # of several processes the first one has it
        print(json.dumps(summary))


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"sharedllm-train: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """Entry point."""
    try:
        sys.exit(app(standalone_mode=False, prog_name="sharedllm-train"))
    except typer.TyperException as error:  # a command line that Typer cannot read
        _fail(error.format_message())
    except typer.Abort:  # Ctrl-C before or after `watching`
        _fail("Interrupted.", 130)


if __name__ == "__main__":
    main()
