"""Official rows of InfiniteBench: from --data-dir or the hub, in file order or spread over the depths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AliasChoices, BaseModel, Field

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch
from evals.tasks.common.rows import Visible, find, parse
from evals.tasks.common.source import DataSource
from evals.tasks.infinitebench.labels import Label, Value, label
from evals.tasks.infinitebench.subsets import DEPTH_SWEEPS

REPO = "xinrongzhang2022/InfiniteBench"
REVISION = "90f0394333616266d9fe85824ceaf505093cbaa5"
"""A revision that several public reproductions pin."""
GOLDEN_RATIO = 0.6180339887498949

NonEmpty = Annotated[list[Value | list[int]], Field(min_length=1)]


class InfiniteBenchRow(BaseModel):
    """One row as on the hub; older files say `content`. options: the four of a multiple-choice row."""

    context: Visible = Field(validation_alias=AliasChoices("context", "content"))
    input: str
    answer: Value | NonEmpty
    options: list[str] = []


def locate(task: str, length: int | None, data: DataSource) -> RowFile:
    """The file of a task; in a data folder, one made for the length (`passkey_8192.jsonl`) comes first.

    Raises UserError that says how to get it.
    """
    if data.data_dir is not None:
        found = find(data.data_dir, [f"{task}_{length}", task], "infinitebench")
        if found is None:
            raise UserError(
                f"InfiniteBench {task} is not in {data.data_dir}: put {task}.jsonl of "
                f"https://huggingface.co/datasets/{REPO} there."
            )
        return found
    return RowFile(fetch(REPO, f"{task}.jsonl", REVISION, data.offline))


def brought(task: str, length: int, data: DataSource) -> bool:
    """Whether the data folder holds rows of the task, made for the length or of the official one."""
    names = [f"{task}_{length}", task]
    return data.data_dir is not None and find(data.data_dir, names, "infinitebench") is not None


def read(task: str, file: RowFile, limit: int | None) -> Iterator[tuple[int, InfiniteBenchRow, Label]]:
    """Line numbers, rows and labels. Raises UserError for a bad line, or a file without rows."""
    if limit is None:
        chosen = None
    elif task in DEPTH_SWEEPS:
        chosen = spread([number for number, _ in file.lines()], limit)
    else:
        chosen = {number for _, (number, _) in zip(range(limit), file.lines(), strict=False)}
    number = 0
    for number, line in file.lines():
        if chosen is not None and number not in chosen:
            if number > max(chosen, default=0):
                return
            continue
        row = parse(file, number, line, InfiniteBenchRow)
        try:
            wanted = label(task, row.answer, row.options)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}: mend the row or download the file again.") from error
        yield number, row, wanted
    if not number:
        raise UserError(f"{file} has no rows: download it again.")


def spread(numbers: list[int], limit: int) -> set[int]:
    """`limit` of the numbers, evenly spread; a larger limit keeps those of a smaller one.

    Multiples of the golden ratio modulo 1 leave no large gap after any number of them, so the first of
    `numbers` in that order reach every depth of a sweep.
    """
    order = sorted(range(len(numbers)), key=lambda i: ((i + 1) * GOLDEN_RATIO) % 1.0)
    return {numbers[i] for i in order[:limit]}
