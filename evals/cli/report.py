"""The command `sharedllm-report`: reports of runs, `compare` of two models, `leaderboard` of many runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evals.cli.command import new_app, run_command
from evals.errors import UserError
from evals.records.json import Json, dumps
from evals.report.export import Format
from evals.report.words import counted
from evals.safe_text import plain_json, plain_line

if TYPE_CHECKING:
    from evals.records.shards import Merged
    from evals.report.load import Run

reports, comparisons, leaderboards = new_app(completion=True), new_app(), new_app()

Threshold = Annotated[
    float, typer.Option(min=0.01, max=1, help="Share of the short-length score up to which a length is effective.")
]


@reports.command(
    epilog="`sharedllm-report compare RUN_A [RUN_B]` compares two models sample by sample; "
    "`sharedllm-report leaderboard RUN_DIR... --output DIR` makes one site of many runs."
)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR", help="Run folders of sharedllm-eval.")],
    output: Annotated[Path | None, typer.Option(help="Write one report of all runs to this folder.")] = None,
    threshold: Threshold = 0.85,
    export: Annotated[
        list[Format] | None, typer.Option(help="Also write the results in the format of others, below `exports`.")
    ] = None,
) -> int:
    """Write the summary, tables, plots and report.html of each run into its folder, or of all runs into --output.

    Shards of a grid, or the folder that they are in, become one run, by default in the folder `merged` beside them.
    """
    from evals.report.load import load, merge

    merged = _merged(runs, output)
    incomplete = merged.incomplete if merged else []
    loaded = [load(path) for path in ([merged.folder] if merged else runs)]
    jobs = [(run, run.path) for run in loaded]
    if output is not None and not merged:
        jobs = [(merge(loaded, output) if len(loaded) > 1 else loaded[0], output)]
    written = [_write(run, folder, threshold, export or [], incomplete) for run, folder in jobs]
    print(plain_json(dumps({"runs": [str(path) for path in runs], "reports": written})))
    _require_whole(loaded)
    if incomplete:
        raise UserError("This is not the whole grid: " + incomplete[0])
    return 0


def _merged(runs: Sequence[Path], output: Path | None) -> Merged | None:
    """The one run that shards make, written to `output` or beside them; None where no run is a shard."""
    from evals.records.read import read_run
    from evals.records.shards import merge_shards, shards_below

    found = [shard for run in runs for shard in (shards_below(run) or [run])]
    together = found != list(runs) or (len(runs) > 1 and any(read_run(path).shard for path in runs))
    return merge_shards(found, output or found[0].parent / "merged") if together else None


def _write(run: Run, folder: Path, threshold: float, formats: Sequence[Format], incomplete: Sequence[str]) -> Json:
    """Write a report and its exports, and say where they are and what they lack; returns the same for programs."""
    from evals import report as reporting
    from evals.report import export as exports
    from evals.report.missing import missing

    notes = [*run.notes, *incomplete, *missing(run)]
    for note in notes:
        print(plain_line(note), file=sys.stderr)
    summary = reporting.write(run, folder, threshold)
    size = f"{counted(len(summary), 'cell')}, {counted(len(run.models), 'model')}"
    print(f"{plain_line(str(folder / 'report.html'))}: {size}")
    exported = [str(path) for chosen in formats for path in exports.export(run, folder, chosen)]
    for path in exported:
        print(plain_line(path))
    entry = {"report": str(folder / "report.html"), "cells": len(summary), "notes": notes}
    return {**entry, "exports": exported} if formats else entry


@comparisons.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run.")],
    run_b: Annotated[
        Path | None, typer.Argument(metavar="RUN_B", help="Another run. Without it, two models of RUN_A.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="A[,B]", help="The models to compare, where the runs hold more than two."),
    ] = None,
    threshold: Threshold = 0.85,
) -> int:
    """Is the second model better than the first? Paired differences over the samples that both answered."""
    from evals.report import compare as comparison
    from evals.report.load import load
    from evals.report.verdicts import verdicts
    from evals.run.spec import split_list

    runs = [load(path) for path in (run_a, run_b) if path is not None]
    for note in dict.fromkeys(note for run in runs for note in run.notes):
        print(plain_line(note), file=sys.stderr)
    models = split_list(model or [])
    if model and not models:
        raise UserError("--model names no model: write --model A,B.")
    pairs = comparison.choose(runs, models)
    differences, refused = comparison.compare(pairs)
    lengths = comparison.effective(pairs, threshold)
    print(verdicts(differences, refused, lengths, threshold))
    found = {
        "runs": [str(run.path) for run in runs],
        "differences": [d.as_dict() for d in differences],
        "refused": [vars(r) for r in refused],
        "effective_lengths": [e.as_dict() for e in lengths],
    }
    print(plain_json(dumps(found)))
    _require_whole(runs)
    return 1 if refused else 0


@leaderboards.command()
def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR", help="Run folders of sharedllm-eval.")],
    output: Annotated[Path, typer.Option(help="Folder of the site.")],
    threshold: Threshold = 0.85,
) -> int:
    """One static site of many runs, with a link to the page of each; copy the folder to serve it."""
    from evals.report.leaderboard import write_leaderboard
    from evals.report.load import load
    from evals.report.missing import missing

    loaded = [load(path) for path in runs]
    for note in dict.fromkeys(note for run in loaded for note in [*run.notes, *missing(run)]):
        print(plain_line(note), file=sys.stderr)
    count = write_leaderboard(loaded, output, threshold)
    print(f"{plain_line(str(output / 'index.html'))}: {counted(count, 'cell')} of {counted(len(loaded), 'run')}")
    print(plain_json(dumps({"runs": [str(path) for path in runs], "site": str(output / "index.html"), "cells": count})))
    _require_whole(loaded)
    return 0


def _require_whole(runs: Sequence[Run]) -> None:
    """Raises UserError, after all else is printed, where records could not be read: exit code 2 tells scripts."""
    for run in runs:
        if run.left_out:
            what = "a record" if run.left_out == 1 else f"{run.left_out} records"
            raise UserError(
                f"This is without {what} of {run.path} that could not be read: start its command again to measure what "
                "is missing, then this one."
            )


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0: done; 1: some cells could not be compared; 2: bad usage or input.

    Damaged records are bad input: what they leave is still reported, and the code says that it is not all.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["compare"]:
        run_command(comparisons, "sharedllm-report compare", words[1:])
    if words[:1] == ["leaderboard"]:
        run_command(leaderboards, "sharedllm-report leaderboard", words[1:])
    run_command(reports, "sharedllm-report", words)
