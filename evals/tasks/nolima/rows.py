"""Published rows: needle sets and books of amodaresi/NoLiMa on the hub, or the same folders below the data folder.

Nothing of them is in this project: their licence is for research that is not commercial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from evals.errors import UserError
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.prompt_builder import SLOT, fill
from evals.tasks.common.rows import PlainVisible, array, validate
from evals.tasks.common.source import DataSource

REPO = "amodaresi/NoLiMa"
REVISION = "378115b1f136b6ba78f90f78682bc55f70ec3ddd"
"""A revision that several public evaluations pin."""
NEEDLES = "needlesets"
BOOKS = "haystack/rand_shuffle"
BOOK_NAMES = tuple(f"rand_book_{number}.txt" for number in range(1, 6))
NAME = "{CHAR}"


def _template(text: str) -> str:
    """The template with our name of the slot for the text. Raises ValueError for one that cannot be filled."""
    renamed = text.replace("{haystack}", SLOT)
    if "{question}" not in renamed:
        raise ValueError("it has no {question}")
    try:
        fill(renamed, question="")
    except (KeyError, IndexError) as error:
        raise ValueError(f"it has the unknown slot {error}") from error
    return renamed


def _named(text: str) -> str:
    if NAME not in text:
        raise ValueError(f"it has no {NAME}")
    return text


class Test(BaseModel):
    """What fills {1}, {2}, ... of a needle and its questions."""

    input_args: list[PlainVisible]


class Experiment(BaseModel):
    """An entry of a needle set. questions: by kind (direct, onehop, twohop). task_template: the whole prompt."""

    id: PlainVisible
    needle: Annotated[PlainVisible, AfterValidator(_named)]
    questions: dict[str, PlainVisible]
    character_set: Annotated[list[PlainVisible], Field(min_length=1)]
    tests: dict[str, Test]
    task_template: Annotated[PlainVisible, AfterValidator(_template)]


@dataclass(frozen=True)
class Asked:
    """A needle and its question, with `NAME` in the place of a character's name. names: those it may be."""

    id: str
    needle: str
    question: str
    names: tuple[str, ...]
    template: str

    def about(self, name: str) -> Asked:
        """The same with a name."""
        return replace(self, needle=self.needle.replace(NAME, name), question=self.question.replace(NAME, name))


def asked(file: RowFile, kind: str) -> list[Asked]:
    """All questions of a kind in a needle set. Raises UserError for a bad entry, and where there are none."""
    found = []
    for number, value in array(file):
        entry = validate(value, Experiment, f"{file}, row {number}")
        if kind not in entry.questions:
            continue
        for name, test in entry.tests.items():
            slots = {f"{{{i}}}": text for i, text in enumerate(test.input_args, start=1)}
            found.append(
                Asked(
                    f"{entry.id}_{name}_{kind}",
                    _filled(entry.needle, slots),
                    _filled(entry.questions[kind], slots),
                    tuple(entry.character_set),
                    entry.task_template,
                )
            )
    if not found:
        raise UserError(f"{file} asks no question of the kind {kind}: choose another set.")
    return found


def _filled(text: str, slots: Mapping[str, str]) -> str:
    for slot, value in slots.items():
        text = text.replace(slot, value)
    return text


def needles(name: str, data: DataSource) -> RowFile:
    """The file of a needle set. Raises UserError that says how to get it."""
    if data.data_dir is None:
        return RowFile(fetch(REPO, f"{NEEDLES}/{name}.json", REVISION, data.offline))
    for place in _places(data.data_dir):
        if (path := place / NEEDLES / f"{name}.json").is_file():
            return RowFile(path)
    raise not_in(data.data_dir, f"The needle set {name} of NoLiMa is", f"{NEEDLES}/{name}.json", REPO)


def books(data: DataSource) -> list[RowFile]:
    """The texts in which needles are hidden, by name. Raises UserError that says how to get them."""
    if data.data_dir is None:
        return [RowFile(fetch(REPO, f"{BOOKS}/{name}", REVISION, data.offline)) for name in BOOK_NAMES]
    for place in _places(data.data_dir):
        if found := sorted((place / BOOKS).glob("*.txt")):
            return [RowFile(path) for path in found]
    raise not_in(data.data_dir, "The books of NoLiMa are", f"{BOOKS}/*.txt", REPO)


def files(data: DataSource) -> list[Path]:
    """Needle sets and books of the data folder."""
    if data.data_dir is None:
        return []
    patterns = (f"{NEEDLES}/*.json", f"{BOOKS}/*.txt")
    return sorted(path for place in _places(data.data_dir) for pattern in patterns for path in place.glob(pattern))


def _places(folder: Path) -> Iterator[Path]:
    yield from (folder, folder / "data", folder / "nolima")
