"""Published rows: RMT-team/babilong on the hub, or the same files in the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.rows import REPAIR, PlainVisible, Visible, array, one_or_more, validate
from evals.tasks.common.source import DataSource

REPO = "RMT-team/babilong"
REVISION = "ee0d588794c7ac098062ee0d247c733d62e94fe2"
"""A revision that several public evaluations pin."""
SETS = ("0k", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M")
"""Published lengths, in thousands of tokens of GPT-2's tokenizer, of which 300 are left for the instruction. (The file
of 10M is too large to be read.)"""


class Row(BaseModel):
    """One published row. input: the text with the facts in it."""

    input: Visible
    question: PlainVisible
    target: PlainVisible


def fitting(length: int) -> str:
    """The longest set whose prompts take no more than the length with GPT-2's tokenizer."""
    return [name for name in SETS if _tokens(name) <= length][-1]


def _tokens(name: str) -> int:
    return int(name[:-1]) * (1000 if name.endswith("k") else 1_000_000)


def files(task: str, data: DataSource) -> list[Path]:
    """The files of a task in the data folder, of whatever length."""
    return [path for name in SETS if (path := _brought(task, name, data)) is not None]


def _brought(task: str, name: str, data: DataSource) -> Path | None:
    if data.data_dir is None:
        return None
    places = [base / sub for base in (data.data_dir, data.data_dir / "babilong") for sub in ("", "data")]
    return next((path for place in places if (path := place / task / f"{name}.json").is_file()), None)


def locate(task: str, name: str, data: DataSource) -> RowFile:
    """The file of a task in a set. Raises UserError that says how to get it."""
    if data.data_dir is None:
        return RowFile(fetch(REPO, f"data/{task}/{name}.json", REVISION, data.offline))
    found = _brought(task, name, data)
    if found is None:
        raise not_in(data.data_dir, f"BABILong {task} of the set {name} is", f"data/{task}/{name}.json", REPO)
    return RowFile(found)


def read(file: RowFile, labels: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    """Numbers and rows of a file. labels: the possible answers. Raises UserError for a bad row, or none."""
    known = {label.lower() for label in labels}
    for number, value in one_or_more(array(file), file):
        row = validate(value, Row, f"{file}, row {number}")
        if row.target.lower() not in known:
            raise UserError(f"{file}, row {number}: target is none of {', '.join(labels)}: {REPAIR}.")
        yield number, row
