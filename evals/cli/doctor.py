"""The command `sharedllm-eval doctor`: is everything there that a run needs?"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from evals.cli import options
from evals.cli.command import new_app
from evals.cli.tables import add_row, new_table
from evals.run.spec import Attention, Device, DType, resolve_runtime, runtime_from

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}

app = new_app()


@app.command()
def doctor(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Preset or YAML file whose files and decoding are checked.")
    ] = "full-135m",
    device: options.OnDevice = Device.auto,
    dtype: options.InDType = DType.auto,
    attn: options.Kernel = Attention.auto,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Fetch the demo's weights (98 MB) where they are missing.")
    ] = False,
) -> int:
    """Check versions, device, free memory and disk, the cache, a preset's files, a prompt and the decoding.

    Without --fix nothing is downloaded. The last line of stdout is one JSON object. Exit code 0: no error; 1: some
    check found one.
    """
    import transformers

    from evals.methods import presets
    from evals.run import doctor as checks

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a table follows at once
    runtime = runtime_from(
        resolve_runtime(device, dtype, attn),
        random_weights=random_weights,
        offline=True,
        checkpoint=str(checkpoint) if checkpoint else None,
    )
    preset = presets.load_preset(model)
    runtime = replace(runtime, gpus=preset.gpus)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = new_table(("check", "", "found"), left=("check", "", "found"))
    findings = [*checks.machine(runtime.device), *checks.model(preset, runtime, fix=fix)]
    for finding in findings:
        add_row(table, finding.check, Text(finding.verdict, style=COLOURS[finding.verdict]), finding.text)
    console.print(table)
    print(json.dumps({"checks": [vars(finding) for finding in findings]}, ensure_ascii=False))
    return int(any(finding.verdict == "error" for finding in findings))
