"""The three texts that RULER borrows, found below a data folder: essays, SQuAD v2 and HotpotQA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from evals.errors import UserError
from evals.tasks.common import rows
from evals.tasks.common.documents import read_text
from evals.tasks.common.files import RowFile

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
    path = essay_path(data_dir)
    if path.is_file():
        return rows.validate(RowFile(path).json(), Essays, str(path)).text.split()
    files = sorted(path.glob("*.txt"))
    if not files:
        raise UserError(f"{path} holds no .txt files: --data-dir needs {ESSAYS}.")
    return [word for file in files for word in read_text(file).split()]


def essay_path(data_dir: Path | None) -> Path:
    """The file or the folder of the essays. Raises UserError where there is neither."""
    return _find(data_dir, ["PaulGrahamEssays.json", "PaulGrahamEssays"], ESSAYS)


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
