"""Rows of a benchmark's files: JSON Lines, plain or compressed, in a folder, in an archive, or from the hub.

Every mistake in a file becomes one sentence with the file, the line and what to do.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Annotated, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ValidationError

from evals.errors import UserError, unreadable

Row = TypeVar("Row", bound=BaseModel)

SUFFIXES = ("", ".xz", ".gz")
BROKEN = (lzma.LZMAError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, EOFError)


def _visible(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty or blank")
    return text


Visible = Annotated[str, AfterValidator(_visible)]
"""Text with something in it beside white space; it is kept as it is."""


@dataclass(frozen=True)
class RowFile:
    """A file of rows: a path, or a member of the zip archive at that path."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def open(self) -> IO[bytes]:
        if self.member is None:
            if self.path.suffix == ".xz":
                return lzma.open(self.path)
            return cast(IO[bytes], gzip.open(self.path)) if self.path.suffix == ".gz" else self.path.open("rb")
        with zipfile.ZipFile(self.path) as archive:  # the member keeps the archive open
            return archive.open(self.member)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Numbers (from 1) and bytes of the lines that are not blank. Raises UserError for an unreadable file."""
        try:
            with self.open() as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield number, line
        except BROKEN as error:
            raise UserError(f"{self} is broken ({error}): download it again.") from error
        except OSError as error:
            raise unreadable(self, error) from error


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
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a zip archive: download it again, or give its folder.") from error
    wanted = (f"{folder}{name}.jsonl" for name in names for folder in ("", "data/"))
    return next((RowFile(archive, member) for member in wanted if member in members), None)


def parse(file: RowFile, number: int, line: bytes, model: type[Row]) -> Row:
    """One line as a row. Raises UserError that names the file, the line, the field and what to do."""
    where = f"{file}, line {number}"
    try:
        value = json.loads(line.decode("utf-8"))
        if b"\\ud" in line.lower():  # the escape of half a character
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds half a character (\\ud800 to \\udfff alone): mend or delete the line."
        ) from error
    except UnicodeDecodeError as error:
        raise unreadable(where, error) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}, column {error.colno}): mend or delete the line.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} has too long a number or too deep a nesting: mend or delete the line.") from error
    return validate(value, model, where)


def validate(value: object, model: type[Row], where: str) -> Row:
    """A decoded row by its pydantic model, types strict. Raises UserError that begins with `where`."""
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the row"
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{where}: {field} does not fit ({reason}): mend the row or download the file again."
        ) from error


def fetch(repo: str, filename: str, revision: str, offline: bool, sha256: str | None = None) -> Path:
    """A file of a data set on the hub, at one revision, from the cache where it is there.

    sha256: of the file, if known. Raises UserError where the file cannot be had or is another one.
    """
    path = _download(repo, filename, revision, offline)
    if path is None:
        why = "is not in the hub's cache, and --offline forbids a download" if offline else "cannot be downloaded"
        raise UserError(
            f"{filename} of the data set {repo} {why}: get it from https://huggingface.co/datasets/{repo} "
            f"(revision {revision[:12]}) and give its folder as --data-dir."
        )
    if sha256 is not None and (found := _digest(path, path.stat().st_mtime_ns)) != sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]}, not {sha256[:12]} as published: delete it and download it again."
        )
    return path


@cache
def _download(repo: str, filename: str, revision: str, offline: bool) -> Path | None:
    """None where it fails. Remembered, since every data set of a benchmark asks, and each failure takes long."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, filename, repo_type="dataset", revision=revision, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return None


@cache
def _digest(path: Path, changed: int) -> str:
    """sha256 of a file; `changed` is its time stamp, so that a replaced file is read again."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
