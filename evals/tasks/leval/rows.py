"""Data sets of L-Eval and their files, as github.com/OpenLMLab/LEval has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.rows import PlainVisible, Visible, find, one_or_more, parse
from evals.tasks.common.source import DataSource

CLOSED = ("coursera", "gsm100", "quality", "topic_retrieval_longchat", "tpo", "codeU", "sci_fi")
OPEN = (
    "financial_qa",
    "gov_report_summ",
    "legal_contract_qa",
    "meeting_summ",
    "multidoc_qa",
    "narrative_qa",
    "natural_question",
    "news_summ",
    "paper_assistant",
    "patent_summ",
    "review_summ",
    "scientific_qa",
    "tv_show_summ",
)
JUDGED = ("LLM", "human")
"""Kinds of the rows whose answers a model or a person is to judge."""
SOURCE = "git clone https://github.com/OpenLMLab/LEval (commit cd34b05)"


class Row(BaseModel):
    """A document and what is asked about it. evaluation: how the answers are scored."""

    input: Visible
    instructions: Annotated[list[PlainVisible], Field(min_length=1)]
    outputs: list[PlainVisible]
    evaluation: Literal["exam", "f1", "rouge", "LLM", "human"]

    @model_validator(mode="after")
    def _paired(self) -> Row:
        if len(self.instructions) != len(self.outputs):
            raise ValueError("it has more instructions than outputs, or fewer")
        return self


def brought(dataset: str, data: DataSource) -> RowFile | None:
    """The file of a data set in a clone of the repository, or in a folder of such files."""
    if data.data_dir is None:
        return None
    group = "Closed-ended-tasks" if dataset in CLOSED else "Open-ended-tasks"
    places = [data.data_dir / "LEval-data" / group, data.data_dir / group, data.data_dir]
    return next((found for place in places if (found := find(place, [dataset], "leval")) is not None), None)


def locate(dataset: str, data: DataSource) -> RowFile:
    """The file of a data set. Raises UserError that says how to get it."""
    if data.data_dir is None:
        raise UserError(f"L-Eval is read from a folder: {SOURCE}, and give it as --data-dir.")
    found = brought(dataset, data)
    if found is None:
        raise UserError(f"L-Eval {dataset} is not in {data.data_dir}: there is no {dataset}.jsonl; {SOURCE}.")
    return found


def read(file: RowFile, judged: bool) -> Iterator[tuple[int, Row]]:
    """Line numbers and rows whose answers are to be judged, or the others. Raises UserError for a bad row, or none."""
    for number, line in one_or_more(file.lines(), file):
        row = parse(file, number, line, Row)
        if (row.evaluation in JUDGED) == judged:
            yield number, row


def beside(data: DataSource, name: str, instead: str) -> Path:
    """A file of the clone, by its path in it. Raises UserError where it is missing. instead: what works without it."""
    folder = data.data_dir
    if folder is None or not (folder / name).is_file():
        raise UserError(f"There is no {name} in {folder or 'any --data-dir'}: {SOURCE}, or {instead}.")
    return folder / name
