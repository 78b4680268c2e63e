"""Published rows: data.json of zai-org/LongBench-v2 on the hub, or a file of the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, Field

from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.rows import PlainVisible, Visible, array, find, one_or_more, parse, validate
from evals.tasks.common.source import DataSource

REPO = "zai-org/LongBench-v2"
REVISION = "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9"
SHA256 = "15d61c22d92c96900b3c4948b6aeea218d3214b676a65df48e7b8555604c7fe2"
"""Of data.json at that revision, as several public reproductions give it."""


class Row(BaseModel):
    """One published row."""

    id: str = Field(alias="_id")
    domain: str
    sub_domain: str
    difficulty: Literal["easy", "hard"]
    length: Literal["short", "medium", "long"]
    question: PlainVisible
    choice_A: PlainVisible
    choice_B: PlainVisible
    choice_C: PlainVisible
    choice_D: PlainVisible
    answer: Literal["A", "B", "C", "D"]
    context: Visible


def brought(data: DataSource) -> RowFile | None:
    """longbench_v2.jsonl or data.json of the data folder, if it has one of them."""
    folder = data.data_dir
    if folder is None:
        return None
    if (found := find(folder, ["longbench_v2"], "longbench-v2")) is not None:
        return found
    places = [place / "data.json" for place in (folder / "longbench-v2", folder)]
    return next((RowFile(path) for path in places if path.is_file()), None)


def locate(data: DataSource) -> RowFile:
    """The file of the data folder, else data.json of the hub. Raises UserError that says how to get it."""
    if data.data_dir is None:
        return RowFile(fetch(REPO, "data.json", REVISION, data.offline, SHA256))
    found = brought(data)
    if found is None:
        raise not_in(data.data_dir, "LongBench v2 is", "data.json", REPO)
    return found


def read(file: RowFile) -> Iterator[tuple[int, Row]]:
    """Numbers and rows of a JSON array or of JSON Lines. Raises UserError for a bad row, or none."""
    if file.path.suffix == ".json":
        rows = ((number, validate(value, Row, f"{file}, row {number}")) for number, value in array(file))
    else:
        rows = ((number, parse(file, number, line, Row)) for number, line in file.lines())
    return one_or_more(rows, file)
