"""Long texts: documents from a folder of the user's, from the hub, or from what every Python installation ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from evals.errors import UserError, unknown, unreadable
from evals.tasks.common import embedded, rows, tables
from evals.tasks.common.files import RowFile, load_json, require_regular, shown
from evals.tasks.common.hub import HubSet, fetch_folder
from evals.tasks.common.source import DataSource

TEXT = ".txt"
LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".json.gz")
KINDS = ".txt, .jsonl (.gz, .xz), .json.gz, .parquet or .arrow"
COLUMNS = ("text", "content")


@dataclass(frozen=True)
class Document:
    """A long text. id: unique, made of the file's name and the row's number, never of what a row calls itself.
    domain: what results are broken down by.
    """

    id: str
    domain: str
    text: str


class TextRow(BaseModel):
    """A row: `text` (or `content`, as in CodeParrot), and anything else."""

    model_config = ConfigDict(extra="ignore")

    text: rows.Visible = Field(validation_alias=AliasChoices(*COLUMNS))


HUB = {
    "pg19": HubSet("emozilla/pg19-test", "data/*.parquet", "c5e39bf32e33f9111323aa68d7d9000d22722035"),
    "proof-pile": HubSet(
        "hoskinson-center/proof-pile",
        "test/proofpile_test.jsonl.gz",
        "490b980249446f2f3bd2df3a8cf085d0f2de240a",
    ),
    # No commit of this one could be verified when it was added: the branch is named, so its content may move.
    "codeparrot": HubSet("codeparrot/codeparrot-valid-v2-near-dedup", "*", "main"),
}
"""The sets of CEPE's and YaRN's perplexity tables."""


def documents(source: DataSource, dataset: str | None = None) -> Iterator[Document]:
    """The user's folder first, else a data set of the hub by name, else the embedded text."""
    if source.data_dir is not None:
        return folder_documents(source.data_dir)
    if dataset is not None:
        return hub_documents(dataset, source.offline)
    return iter(embedded_documents())


def haystack(source: DataSource) -> Iterator[str]:
    """Texts to hide something in: the documents of the user's folder in the order of their file names, else the
    reference topics of Python's own help.
    """
    if source.data_dir is not None:
        return (document.text for document in folder_documents(source.data_dir))
    return iter(embedded.topics())


def folder_documents(folder: Path, pattern: str = "*") -> Iterator[Document]:
    """Documents of the files right in a folder (or of one file), sorted by name: see KINDS.

    A .txt file is one document of the domain that its folder names; a row of another file belongs to the domain
    that its file names. Raises UserError for a folder without such files, for one that cannot be read or has no
    rows, and for an empty or malformed document with its file and line or row.
    """
    paths = folder_files(folder, pattern)
    if not paths:
        raise UserError(f"There is no {KINDS} file in {shown(folder)}: {_instead(folder)}.")
    for path in paths:
        name = shown(path.name if path.parent == folder or path == folder else path.relative_to(folder))
        domain = shown(path.name).partition(".")[0]
        if path.suffix == TEXT:
            yield Document(name, shown(path.parent.name), read_text(path))
            continue
        found = _table(path) if tables.is_table(path) else _lines(path)
        number = 0
        for number, text in found:
            yield Document(f"{name}:{number}", domain, text)
        if not number:
            raise UserError(f"{shown(path)} has no rows: remove it from the folder.")


def folder_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files of a folder that hold documents, by name, or the one file that `folder` is.

    Other files are left alone. Raises UserError for a folder that cannot be listed.
    """
    try:
        candidates = [folder] if folder.is_file() else sorted(p for p in folder.glob(pattern) if not p.is_dir())
    except OSError as error:
        raise unreadable(shown(folder), error) from error
    return [p for p in candidates if p.name.endswith((TEXT, *LINES)) or tables.is_table(p)]


def files(source: DataSource) -> list[Path]:
    """The files of the user's folder that hold documents; none without a folder."""
    return folder_files(source.data_dir) if source.data_dir else []


def _instead(folder: Path) -> str:
    """What to name in place of a folder without documents: one below it that has some."""
    for pattern in ("*/*", "*/*/*"):
        if below := folder_files(folder, pattern):
            return f"{shown(below[0].parent)} has some, so name that one"
    return "name a folder with some"


def verify(source: DataSource) -> None:
    """Read the user's compressed files to their ends, so that one that was cut short is found before a model runs.

    Raises UserError for a bad file, and for a folder without documents.
    """
    next(haystack(source))
    for path in files(source):
        try:
            require_regular(path)
        except OSError as error:
            raise unreadable(shown(path), error) from error
        RowFile(path).verify()


def hub_documents(name: str, offline: bool) -> Iterator[Document]:
    """Documents of a hub data set, named as in HUB. Raises UserError for an unknown or unreachable one."""
    if name not in HUB:
        raise unknown("dataset", name, HUB)
    hub = HUB[name]
    for document in folder_documents(fetch_folder(hub, offline), f"**/{hub.files}"):
        yield Document(document.id, name, document.text)


def embedded_documents() -> tuple[Document, ...]:
    """Text that needs no download (`evals.tasks.common.embedded`)."""
    return tuple(
        Document(f"{domain}-{i}", domain, text)
        for domain, texts in embedded.texts().items()
        for i, text in enumerate(texts)
    )


def read_text(path: Path) -> str:
    """The text of a .txt file. Raises UserError for one that cannot be read, is not UTF-8 or is blank."""
    text = RowFile(path).text()
    if not text.strip():
        raise UserError(f"{shown(path)} is empty: remove it from the folder.")
    return text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    file = RowFile(path)
    for number, line in file.lines():
        where = f"{file}, line {number}"
        row = load_json(line, where, rows.REPAIR)
        if isinstance(row, dict) and not any(column in row for column in COLUMNS):
            raise tables.lacking(where, "field", COLUMNS, row)
        yield number, rows.validate(row, TextRow, where).text


def _table(path: Path) -> Iterator[tuple[int, str]]:
    for number, column, value in tables.read(path, COLUMNS):
        yield number, rows.validate({column: value}, TextRow, f"{shown(path)}, row {number}").text
