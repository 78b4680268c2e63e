"""Official rows of InfiniteBench: from --data-dir or the hub, in file order or spread over the depths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, Field

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.rows import REPAIR, Plain, Visible, find, first, one_or_more, parse
from evals.tasks.common.source import DataSource
from evals.tasks.common.spread import spread
from evals.tasks.infinitebench.labels import Label, Value, label
from evals.tasks.infinitebench.subsets import DEPTH_SWEEPS

REPO = "xinrongzhang2022/InfiniteBench"
REVISION = "90f0394333616266d9fe85824ceaf505093cbaa5"
"""A revision that several public reproductions pin."""

NonEmpty = Annotated[list[Value | list[int]], Field(min_length=1)]
ASKED = ("longbook_qa_eng", "longbook_choice_eng", "longbook_qa_chn", "kv_retrieval")
"""Tasks whose rows ask different things, so that a blank `input` asks nothing."""


class InfiniteBenchRow(BaseModel):
    """One row as on the hub; older files say `content`. options: the four of a multiple-choice row."""

    context: Visible = Field(validation_alias=AliasChoices("context", "content"))
    input: Plain
    answer: Value | NonEmpty
    options: list[Plain] = []


def brought(task: str, length: int | None, data: DataSource) -> RowFile | None:
    """The file of a task in the data folder, if there are both; one made for the length comes first."""
    names = [f"{task}_{length}", task]
    return None if data.data_dir is None else find(data.data_dir, names, "infinitebench")


def locate(task: str, length: int | None, data: DataSource) -> RowFile:
    """The file of a task; in a data folder, one made for the length (`passkey_8192.jsonl`) comes first.

    Raises UserError that says how to get it.
    """
    if data.data_dir is None:
        return RowFile(fetch(REPO, f"{task}.jsonl", REVISION, data.offline))
    found = brought(task, length, data)
    if found is None:
        raise not_in(data.data_dir, f"InfiniteBench {task} is", f"{task}.jsonl", REPO)
    return found


def files(task: str, data: DataSource) -> list[Path]:
    """Every file of the data folder that rows of the task may be read from, at whatever length."""
    if data.data_dir is None:
        return []
    if data.data_dir.is_file():
        return [data.data_dir]
    patterns = (f"{task}.jsonl*", f"{task}_[0-9]*.jsonl*")
    places = [base / sub for base in (data.data_dir, data.data_dir / "infinitebench") for sub in ("", "data")]
    return sorted({path for place in places for pattern in patterns for path in place.glob(pattern)})


def read(task: str, file: RowFile, limit: int | None) -> Iterator[tuple[int, InfiniteBenchRow, Label]]:
    """Line numbers, rows and labels. Raises UserError for a bad line, or a file without rows."""
    if limit is None:
        chosen = None
    elif task in DEPTH_SWEEPS:
        chosen = spread([number for number, _ in file.lines()], limit)
    else:
        chosen = {number for number, _ in first(file.lines(), limit)}
    for number, line in one_or_more(file.lines(), file):
        if chosen is not None and number not in chosen:
            if number > max(chosen, default=0):
                return
            continue
        row = parse(file, number, line, InfiniteBenchRow)
        if task in ASKED and not row.input.strip():
            raise UserError(f"{file}, line {number}: input is empty or blank, and this task asks it: {REPAIR}.")
        try:
            wanted = label(task, row.answer, row.options)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}: {REPAIR}.") from error
        yield number, row, wanted
