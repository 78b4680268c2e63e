"""Rows of a benchmark's files: JSON Lines in a folder or in an archive, each checked against its model.

The lines are read here and not by `datasets`, whose JSON reader knows neither the line of a mistake nor .xz files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from evals.errors import UserError, unreadable
from evals.tasks.common.files import BROKEN, RowFile, load_json, shown
from sharedllm.validation import misfit

Row = TypeVar("Row", bound=BaseModel)
Entry = TypeVar("Entry")

SUFFIXES = ("", ".xz", ".gz")
LINE_REPAIR, REPAIR = "fix or delete the line", "fix the row or download the file again"


def _visible(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty or blank")
    return text


Visible = Annotated[str, AfterValidator(_visible)]
"""Text with something in it besides white space; it is kept as it is."""


def _plain(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it holds a NUL character")
    return text


Plain = Annotated[str, AfterValidator(_plain)]
"""Text of a question or an answer, maybe empty. Contexts may hold whatever was extracted from a document."""
PlainVisible = Annotated[Visible, AfterValidator(_plain)]
"""As `Plain`, with something in it besides white space."""


def find(data_dir: Path, names: Sequence[str], folder: str, archive: str | None = None) -> RowFile | None:
    """The first file of rows below a data folder.

    names: file names without `.jsonl`, in order of preference. The places are the folder itself, its `data/`,
    and both again below `folder` (so that one data folder serves several benchmarks); in each the file, plain,
    .xz or .gz, then the benchmark's own `archive`. data_dir may also be that archive.
    """
    if data_dir.is_file():
        return _member(data_dir, names)
    places = [base / sub for base in (data_dir, data_dir / folder) for sub in ("", "data")]
    for place in places:
        for name in names:
            for suffix in SUFFIXES:
                if (path := place / f"{name}.jsonl{suffix}").is_file():
                    return RowFile(path)
        if archive and (place / archive).is_file() and (found := _member(place / archive, names)):
            return found
    return None


def _member(archive: Path, names: Sequence[str]) -> RowFile | None:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = set(opened.namelist())
    except (*BROKEN, UnicodeDecodeError) as error:
        raise UserError(f"{shown(archive)} is not a zip archive: download it again, or give its folder.") from error
    except OSError as error:
        raise unreadable(shown(archive), error) from error
    wanted = (f"{folder}{name}.jsonl" for name in names for folder in ("", "data/"))
    return next((RowFile(archive, member) for member in wanted if member in members), None)


def parse(file: RowFile, number: int, line: bytes, model: type[Row]) -> Row:
    """One line as a row. Raises UserError that names the file, the line, the field and what to do."""
    where = f"{file}, line {number}"
    return validate(load_json(line, where, LINE_REPAIR), model, where)


def array(file: RowFile) -> Iterator[tuple[int, object]]:
    """Numbers (from 1) and values of a JSON array. Raises UserError for another value."""
    values = file.json()
    if not isinstance(values, list):
        raise UserError(f"{file} does not hold a list of rows: download it again.")
    return iter(enumerate(values, start=1))


def validate(value: object, model: type[Row], where: str) -> Row:
    """A decoded row by its pydantic model, types strict. Raises UserError that begins with `where`."""
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        found = misfit(error)
        fault = f"{found.place or 'the row'} does not fit ({found.reason})"
        raise UserError(f"{where}: {fault}: {REPAIR}.") from error


def one_or_more(numbered: Iterable[tuple[int, Entry]], file: object) -> Iterator[tuple[int, Entry]]:
    """Numbers and rows (or lines) of a file as they come. Raises UserError at the end of a file without any."""
    empty = True
    for entry in numbered:
        empty = False
        yield entry
    if empty:
        raise UserError(f"{file} has no rows: download it again.")


def first(rows: Iterable[Entry], limit: int | None) -> Iterator[Entry]:
    """The first `limit` rows, or all of them; no row after them is read."""
    if limit is None:
        yield from rows
        return
    for _, row in zip(range(limit), rows, strict=False):
        yield row


@contextmanager
def errors_at(place: object) -> Iterator[None]:
    """Puts the place of a row (file and line) in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
