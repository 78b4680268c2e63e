"""Long texts: documents from a folder of the user's, from the hub, or from what every Python installation ships."""

from __future__ import annotations

import pydoc_data.topics
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from evals.errors import UserError, unknown, unreadable
from evals.tasks.common import rows
from evals.tasks.common.source import DataSource

TEXT = ".txt"
LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".json.gz")
DOCUMENT_CHARS = 700_000
"""Size of an embedded document: above 128K tokens of the usual vocabularies."""
DOCSTRING = re.compile(r'^\s*[rR]?"""(.*?)"""', re.DOTALL | re.MULTILINE)


def _split(value: Any) -> Any:
    """`--set depths=0,50,100` arrives as one string, `--set depths=50` as a number."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


Commas = BeforeValidator(_split)
"""Lets a setting that is a tuple be written with commas."""
Numbers = Annotated[tuple[float, ...], Commas]


@dataclass(frozen=True)
class Document:
    """A long text. domain: what results are broken down by."""

    id: str
    domain: str
    text: str


class TextRow(BaseModel):
    """A row of a .jsonl or .parquet file: `text` (or `content`, as in CodeParrot), maybe an `id`, and anything else."""

    model_config = ConfigDict(extra="ignore")

    text: rows.Visible = Field(validation_alias=AliasChoices("text", "content"))
    id: str | int | None = None


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub at one revision; files is a pattern of the files to fetch."""

    repo: str
    files: str
    revision: str


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
    reference topics of Python's own help, in the order of their names."""
    if source.data_dir is not None:
        return (document.text for document in folder_documents(source.data_dir))
    return (pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))


def folder_documents(folder: Path, pattern: str = "*") -> Iterator[Document]:
    """Documents of the .txt, .jsonl(.gz, .xz) and .parquet files right in a folder (or of one file), sorted by name.

    A .txt file is one document of the domain that its folder names; a row of another file belongs to the domain
    that its file names. Raises UserError for a folder without such files, for one that cannot be read or has no
    rows, and for an empty or malformed document with its file and line or row.
    """
    files = folder_files(folder, pattern)
    if not files:
        raise UserError(f"There is no .txt, .jsonl (.gz, .xz) or .parquet file in {folder}: name a folder with some.")
    for path in files:
        domain = path.name.partition(".")[0]
        if path.suffix == TEXT:
            yield Document(path.stem, path.parent.name, read_text(path))
        elif path.suffix == ".parquet":
            yield from _parquet(path, domain)
        else:
            yield from _lines(path, domain)


def folder_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files of a folder that hold documents, by name, or the one file that `folder` is."""
    candidates = [folder] if folder.is_file() else sorted(p for p in folder.glob(pattern) if not p.is_dir())
    return [path for path in candidates if path.name.endswith((TEXT, *LINES, ".parquet"))]


def hub_documents(name: str, offline: bool) -> Iterator[Document]:
    """Documents of a hub data set, named as in HUB. Raises UserError for an unknown or unreachable one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if name not in HUB:
        raise unknown("dataset", name, HUB)
    hub = HUB[name]
    try:
        folder = snapshot_download(
            hub.repo,
            repo_type="dataset",
            revision=hub.revision,
            allow_patterns=hub.files,
            local_files_only=offline,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"The data set {hub.repo} is not on this machine and cannot be fetched: run `hf download --repo-type "
            f"dataset {hub.repo} --revision {hub.revision}` where the hub is reached, or give --data-dir."
        ) from error
    for document in folder_documents(Path(folder), f"**/{hub.files}"):
        yield Document(document.id, name, document.text)


@cache
def embedded_documents() -> tuple[Document, ...]:
    """Text that needs no download: `python`, the source of the standard library's modules, and `docs`, the
    reference topics of Python's help and the docstrings of these modules (technical English).

    They change with the Python version, which every run records.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*.py"))]
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    docstrings = [text for source in sources for text in DOCSTRING.findall(source)]
    return tuple(
        Document(f"{domain}-{i}", domain, text)
        for domain, pieces in {"python": sources, "docs": [*topics, *docstrings]}.items()
        for i, text in enumerate(_joined(pieces))
    )


def _joined(pieces: list[str]) -> list[str]:
    """Pieces joined in order to texts of DOCUMENT_CHARS or a little more; a short rest goes to the last of them."""
    texts: list[list[str]] = [[]]
    size = 0
    for piece in pieces:
        if size >= DOCUMENT_CHARS:
            texts.append([])
            size = 0
        texts[-1].append(piece)
        size += len(piece)
    if size < DOCUMENT_CHARS and len(texts) > 1:
        rest = texts.pop()
        texts[-1].extend(rest)
    return ["\n\n".join(text) for text in texts]


def read_text(path: Path) -> str:
    """The text of a .txt file. Raises UserError for one that cannot be read, is not UTF-8 or is blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    if not text.strip():
        raise UserError(f"{path} is empty: remove it from the folder.")
    return text


def _lines(path: Path, domain: str) -> Iterator[Document]:
    file = rows.RowFile(path)
    number = 0
    for number, line in file.lines():
        row = rows.parse(file, number, line, TextRow)
        yield Document(f"{domain}:{number if row.id is None else row.id}", domain, row.text)
    if not number:
        raise UserError(f"{path} has no rows: remove it from the folder.")


def _parquet(path: Path, domain: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(path)
        column = next((name for name in ("text", "content") if name in table.schema_arrow.names), None)
        if column is None:
            raise UserError(f"{path} has no column `text` or `content`: its columns are {table.schema_arrow.names}.")
        for batch in table.iter_batches(batch_size=64, columns=[column]):
            for value in batch.column(0):
                number += 1
                row = rows.validate({column: value.as_py()}, TextRow, f"{path}, row {number}")
                yield Document(f"{domain}:{number}", domain, row.text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, row {number} is not UTF-8 (byte {error.start}): mend or delete the row.") from error
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} cannot be read as Parquet ({reason}): download it again.") from error
    if not number:
        raise UserError(f"{path} has no rows: remove it from the folder.")
