"""The three texts that RULER borrows, found below a data folder: essays, SQuAD v2 and HotpotQA."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from evals.errors import UserError
from evals.tasks.common import rows
from evals.tasks.common.documents import read_text

ESSAYS = "a folder PaulGrahamEssays of .txt files (github gkamradt/LLMTest_NeedleInAHaystack) or PaulGrahamEssays.json"
SQUAD = "the SQuAD v2 development set as squad.json or dev-v2.0.json (rajpurkar.github.io/SQuAD-explorer)"
HOTPOTQA = (
    "the HotpotQA distractor development set as hotpotqa.json or hotpot_dev_distractor_v1.json (hotpotqa.github.io)"
)


class Essays(BaseModel):
    """PaulGrahamEssays.json: all essays, joined."""

    text: rows.Visible


def essays(data_dir: Path | None) -> list[str]:
    """The words of all essays in the order of their file names. Raises UserError where they are missing or broken."""
    path = _find(data_dir, ["PaulGrahamEssays.json", "PaulGrahamEssays"], ESSAYS)
    if path.is_file():
        return rows.validate(load_json(path), Essays, str(path)).text.split()
    files = sorted(path.glob("*.txt"))
    if not files:
        raise UserError(f"{path} holds no .txt files: --data-dir needs {ESSAYS}.")
    return [word for file in files for word in read_text(file).split()]


def squad(data_dir: Path | None) -> Path:
    """The SQuAD file, plain or .xz. Raises UserError where it is missing."""
    return _find(data_dir, ["squad.json", "dev-v2.0.json"], SQUAD)


def hotpotqa(data_dir: Path | None) -> Path:
    """The HotpotQA file, plain or .xz. Raises UserError where it is missing."""
    return _find(data_dir, ["hotpotqa.json", "hotpot_dev_distractor_v1.json"], HOTPOTQA)


def _find(data_dir: Path | None, names: Sequence[str], what: str) -> Path:
    """The first of the names in the folder, or in a folder in it."""
    if data_dir is None:
        raise UserError(f"This RULER task needs {what}: name their folder with --data-dir.")
    for pattern in ("", "*/"):
        for name in names:
            for suffix in ("", ".xz"):
                found = sorted(data_dir.glob(f"{pattern}{name}{suffix}"))
                if found:
                    return found[0]
    raise UserError(f"There is no {' or '.join(names)} in {data_dir}: --data-dir needs {what}.")


def load_json(path: Path) -> object:
    """The content of a JSON file, plain or .xz. Raises UserError for one that cannot be read."""
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, RecursionError, lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a readable JSON file ({error}): get the original file again.") from error
