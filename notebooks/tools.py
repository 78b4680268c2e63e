"""What the notebooks share: they run the project's commands as a reader would, and show tables and plots of a run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from IPython.display import Image, Markdown, display

from evals.report.data import Data
from evals.report.load import load, merge
from evals.report.paper.tables import paper_tables
from evals.report.plots import draw


def environment() -> dict[str, str]:
    """The notebook's environment without its request for colours, which would print control characters."""
    return {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "CLICOLOR_FORCE")}


def run(command: str) -> dict[str, Any]:
    """Run a command of this project, print what it prints, return the JSON object of its last line.

    Scripts are those beside the interpreter of this notebook. Raises CalledProcessError if a command fails.
    """
    print(f"$ {command}\n")
    name, *words = shlex.split(command)
    program = [sys.executable] if name == "python" else [str(Path(sys.executable).with_name(name))]
    done = subprocess.run([*program, *words], stdout=subprocess.PIPE, text=True, env=environment(), check=True)
    *lines, last = done.stdout.splitlines()
    print("\n".join(line.rstrip() for line in lines).strip("\n"))
    return json.loads(last)


def origin(*folders: Path | str) -> None:
    """Print the command, date and device of each run."""
    for folder in folders:
        record = load(Path(folder)).meta
        machine = record.environment
        gpu = machine.get("gpu")
        device = gpu["name"] if gpu else f"{machine['cores']} CPU cores"
        print(f"$ {shlex.join(record.command)}")
        print(f"made {record.created[:10]} on {device}, seed {record.spec['seed']}")


def data(*folders: Path | str) -> Data:
    """The runs, merged, with their summary."""
    runs = [load(Path(folder)) for folder in folders]
    return Data.of(runs[0] if len(runs) == 1 else merge(runs, runs[0].path.parent))


def tables(found: Data, *names: str) -> None:
    """Show the tables in the paper's layout whose names begin with one of `names`."""
    for table in paper_tables(found):
        if table.name.startswith(names):
            display(Markdown(table.markdown()))


def plots(found: Data, *names: str) -> None:
    """Show the plots whose names begin with one of `names`, each with its caption."""
    with tempfile.TemporaryDirectory() as folder:
        for name, caption, path in draw(found, Path(folder)):
            if name.startswith(names):
                image = path.with_suffix(".png").read_bytes()
                width = int.from_bytes(image[16:20])  # of the PNG; shown at half size for high-resolution screens
                display(Image(image, width=width // 2), Markdown(f"*{caption}*"))
