"""The console commands: they start only where `evals` and `baselines` are the packages that come with this one.

Both names are taken on the index, and folders are called so too. Whatever lies first on Python's path is imported, or
has overwritten ours, and would end in an ImportError that explains nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from sharedllm.errors import UserError

OURS = "Part of the package sharedllm."
"""Stands in the docstring of the packages that are installed beside `sharedllm`."""
BESIDE = ("evals", "baselines")


def check_names(*names: str) -> None:
    """Raise UserError that says what lies in the place of the packages `names`; they are not imported."""
    for name in names:
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
        found = next((place for place in places if place), None)
        if found is None or not _is_ours(Path(found)):
            what = f"another one lies in {found}" if found else "it is missing"
            raise UserError(
                f"Python does not find sharedllm's package {name}, {what}: start from another folder, or install "
                "sharedllm again in an environment of its own."
            )


def _is_ours(folder: Path) -> bool:
    try:
        return OURS in (folder / "__init__.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _start(module: str) -> None:
    try:
        check_names(*BESIDE)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    import_module(module).main()


def evaluate() -> None:
    """`sharedllm-eval`."""
    _start("evals.cli.evaluate")


def report() -> None:
    """`sharedllm-report`."""
    _start("evals.cli.report")


def lm_eval() -> None:
    """`sharedllm-lm-eval`."""
    _start("evals.lm_eval.command")
