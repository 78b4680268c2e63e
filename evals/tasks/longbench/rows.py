"""Rows of LongBench v1 and where they come from: --data-dir, or the official archive on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, model_validator

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch
from evals.tasks.common.rows import Visible, find, parse
from evals.tasks.common.source import DataSource
from evals.tasks.longbench import datasets

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

    input: str
    context: Visible
    answers: Annotated[list[str], AfterValidator(_answered)]
    length: int
    all_classes: list[str] | None = None
    id: str = Field("", alias="_id")


class ClassificationRow(LongBenchRow):
    """A row of trec or lsht, which cannot be scored without the class names."""

    @model_validator(mode="after")
    def _has_classes(self) -> ClassificationRow:
        if not self.all_classes:
            raise ValueError("all_classes is missing or empty")
        return self


def locate(name: str, data: DataSource) -> RowFile:
    """The file of a data set; LongBench-E's end in `_e`. Raises UserError that says how to get it."""
    if data.data_dir is not None:
        found = find(data.data_dir, [name], "longbench", ARCHIVE)
        if found is None:
            raise UserError(
                f"LongBench {name} is not in {data.data_dir}: put {name}.jsonl (or .jsonl.xz, .jsonl.gz, or the "
                f"official data.zip of https://huggingface.co/datasets/{REPO}) there."
            )
        return found
    return RowFile(fetch(REPO, ARCHIVE, REVISION, data.offline, ARCHIVE_SHA256), f"data/{name}.jsonl")


def read(name: str, file: RowFile) -> Iterator[tuple[int, LongBenchRow]]:
    """Line numbers and rows of a data set. Raises UserError for a bad line, or a file without rows."""
    model = ClassificationRow if datasets.get(name).metric == "classification" else LongBenchRow
    number = 0
    for number, line in file.lines():
        yield number, parse(file, number, line, model)
    if not number:
        raise UserError(f"{file} has no rows: download it again.")
