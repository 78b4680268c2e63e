"""Rows of LongBench v1 and where they come from: --data-dir, or the official archive on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch
from evals.tasks.common.rows import REPAIR, Plain, PlainVisible, Visible, find, one_or_more, parse
from evals.tasks.common.source import DataSource
from evals.tasks.longbench import datasets
from evals.tasks.longbench.templates import template

REPO = "zai-org/LongBench"
REVISION = "5e628be450b7e67fb7ae6e201bd6d8f7056f7672"
ARCHIVE = "data.zip"
ARCHIVE_SHA256 = "cb45b11a4133c6bc1d6a44b0f8e701335ff1e543195db1103472e575857f7f64"
"""Hash of the archive at that revision, as several public reproductions give it; 21 + 13 files, 8,418 rows."""


def _answered(answers: list[str]) -> list[str]:
    if not any(answer.strip() for answer in answers):
        raise ValueError("there is no answer that is not empty or blank")
    return answers


class LongBenchRow(BaseModel):
    """One official row. length: words (characters for Chinese) as stored; it decides the LongBench-E bucket."""

    input: Plain
    context: Visible
    answers: Annotated[list[Plain], AfterValidator(_answered)]
    length: int = Field(ge=0, lt=1 << 40)
    all_classes: list[PlainVisible] | None = None
    id: str = Field("", alias="_id")


def wrong(name: str, row: LongBenchRow) -> str | None:
    """Why a row of that data set cannot be asked or scored; None where it can."""
    if "{input}" in template(datasets.base(name)) and not row.input.strip():
        return "input is empty or blank, and this data set asks it"
    metric = datasets.get(name).metric
    if metric == "classification":
        if not row.all_classes:
            return "all_classes is missing or empty"
        if not set(row.answers) & set(row.all_classes):
            return "none of the answers is one of all_classes"
    if metric in datasets.ANSWERS and not all(re.search(datasets.ANSWERS[metric], answer) for answer in row.answers):
        return f"an answer does not match {datasets.ANSWERS[metric]!r}"
    return None


def brought(name: str, data: DataSource) -> RowFile | None:
    """The file of a data set in the data folder, if there are both."""
    return None if data.data_dir is None else find(data.data_dir, [name], "longbench", ARCHIVE)


def locate(name: str, data: DataSource) -> RowFile:
    """The file of a data set; LongBench-E's end in `_e`. Raises UserError that says how to get it."""
    if data.data_dir is not None:
        found = brought(name, data)
        if found is None:
            raise UserError(
                f"LongBench {name} is not in {data.data_dir}: put {name}.jsonl (or .jsonl.xz, .jsonl.gz, or the "
                f"official data.zip of https://huggingface.co/datasets/{REPO}) there."
            )
        return found
    return RowFile(fetch(REPO, ARCHIVE, REVISION, data.offline, ARCHIVE_SHA256), f"data/{name}.jsonl")


def read(name: str, file: RowFile) -> Iterator[tuple[int, LongBenchRow]]:
    """Line numbers and rows of a data set. Raises UserError for a bad line, or a file without rows."""
    for number, line in one_or_more(file.lines(), file):
        row = parse(file, number, line, LongBenchRow)
        if reason := wrong(name, row):
            raise UserError(f"{file}, line {number}: {reason}: {REPAIR}.")
        yield number, row
