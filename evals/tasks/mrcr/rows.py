"""Published rows: openai/mrcr on the hub, or the same files in the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from evals.errors import UserError
from evals.tasks.common import tables
from evals.tasks.common.files import load_json
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.rows import REPAIR, PlainVisible, Visible, one_or_more, validate
from evals.tasks.common.source import DataSource
from evals.tasks.mrcr.scores import score

REPO = "openai/mrcr"
REVISION = "f4c69fae7cf81f7ca26b9fee34b392a50f6b8a1d"
"""A revision that several public evaluations pin, after the repair of December 2025."""


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class Row(BaseModel):
    """One published row. prompt: the messages as JSON. answer: with the random string in front."""

    prompt: Visible
    answer: PlainVisible
    random_string_to_prepend: PlainVisible


class Asked(BaseModel):
    """A row whose messages are read; the last is the question."""

    messages: Annotated[list[Message], Field(min_length=3)]
    answer: str
    prefix: str

    @property
    def question(self) -> str:
        return self.messages[-1].content

    @property
    def chance(self) -> float:
        """The score of the right string before another answer to the same request, on average; 0 without any."""
        pairs = list(zip(self.messages[:-1], self.messages[1:-1], strict=False))
        wanted = self.answer.removeprefix(self.prefix)
        requests = {request.content for request, reply in pairs if reply.content == wanted}
        others = [reply.content for request, reply in pairs if request.content in requests and reply.content != wanted]
        scores = [score(self.prefix + other, self.answer, self.prefix) for other in others]
        return sum(scores) / len(scores) if scores else 0.0


def files(subset: str, data: DataSource) -> list[Path]:
    """The files of a subset in the data folder, by name."""
    if data.data_dir is None:
        return []
    for place in (data.data_dir, data.data_dir / "mrcr"):
        for folder in (place / subset, place):
            if found := sorted(folder.glob(f"{subset}*.parquet")):
                return found
    return []


def locate(subset: str, data: DataSource) -> list[Path]:
    """The files of a subset. Raises UserError that says how to get them."""
    if data.data_dir is None:
        names = [f"{subset}/{subset}_{part}.parquet" for part in (0, 1)]
        return [fetch(REPO, name, REVISION, data.offline) for name in names]
    found = files(subset, data)
    if not found:
        raise not_in(data.data_dir, f"MRCR {subset} is", f"{subset}/*.parquet", REPO)
    return found


def read(path: Path) -> Iterator[tuple[int, Row]]:
    """Numbers and rows of a file, their messages unread. Raises UserError for a bad row, or none."""
    for number, value in one_or_more(tables.rows(path), path):
        yield number, validate(dict(value), Row, f"{path}, row {number}")


def asked(row: Row, where: str) -> Asked:
    """The row with its messages. Raises UserError that begins with `where`."""
    if not row.answer.startswith(row.random_string_to_prepend):
        raise UserError(f"{where}: answer does not begin with random_string_to_prepend: {REPAIR}.")
    messages = load_json(row.prompt.encode(), f"{where}: prompt", REPAIR)
    fields = {"messages": messages, "answer": row.answer, "prefix": row.random_string_to_prepend}
    found = validate(fields, Asked, where)
    if found.messages[-1].role != "user" or not found.question.strip():
        raise UserError(f"{where}: the last message is no question of a user: {REPAIR}.")
    return found
