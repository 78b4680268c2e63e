"""A run in the formats of others: `sharedllm-report RUN --export FORMAT`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError

if TYPE_CHECKING:  # the command line names the formats without waiting for pandas
    from evals.report.data import Data
    from evals.report.load import Run

FOLDER = "exports"
"""Below the folder of a report."""


class Format(StrEnum):
    """Values of `--export`."""

    every_eval_ever = "every-eval-ever"
    lm_eval = "lm-eval"


def export(run: Run, folder: Path, chosen: Format) -> list[Path]:
    """Write a run below `folder`/exports/FORMAT. Returns the files. Raises UserError where they cannot be written."""
    from evals.report.data import Data
    from evals.report.export import every_eval_ever, lm_eval

    writers: dict[Format, Callable[[Data, Path], list[Path]]] = {
        Format.every_eval_ever: every_eval_ever.write,
        Format.lm_eval: lm_eval.write,
    }
    target = folder / FOLDER / chosen.value
    try:
        return writers[chosen](Data.of(run), target)
    except OSError as error:
        raise UserError(
            f"The export cannot be written to {target} ({error.strerror or error}): free some space or choose another "
            "--output."
        ) from error
