"""Reading a run folder. Nothing here changes a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from evals.errors import UserError, unreadable
from evals.records.journal import JOURNAL_FILE, take_in
from evals.records.lines import AnyRecord, Damaged, Head, decode, encode, head
from evals.records.models import RunMeta, SampleRecord
from sharedllm.validation import misfit

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
DAMAGED_FILE = "samples.damaged.jsonl"
MOST_NAMED = 8
REPAIR = "put a whole copy of it back, or measure again with another --output"


@dataclass(frozen=True)
class Line:
    """A line of `samples.jsonl`: its bytes, and the record that it holds or why it holds none."""

    number: int
    raw: bytes
    record: AnyRecord | None
    damage: str = ""


def read_run(folder: Path) -> RunMeta:
    """`run.json` of a run, with what changed since it was written.

    Raises UserError where there is none or it is not one of this format.
    """
    path = folder / RUN_FILE
    content = _content(path)
    if content is None:
        raise UserError(f"{folder} is not a run: {_instead(folder)}.")
    journal = _content(folder / JOURNAL_FILE) or b""
    try:
        content.decode()
        meta = RunMeta.model_validate_json(content, strict=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {REPAIR}.") from error
    except ValidationError as error:
        raise UserError(f"{path} {_fault(error)}: {REPAIR}.") from error
    take_in(journal, content, meta)
    return meta


def _instead(folder: Path) -> str:
    """What a folder without a run is, and what to name in its place."""
    if not folder.is_dir():
        return "there is no such folder; name the --output of a `sharedllm-eval`, by default below runs/"
    runs = sorted(str(path.parent) for path in folder.glob(f"*/{RUN_FILE}"))
    if not runs:
        return f"it holds no {RUN_FILE}, so name a folder that `sharedllm-eval` made"
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    return f"it holds no {RUN_FILE}; the runs in it are {', '.join(runs[:MOST_NAMED])}{more}, so name those"


def _content(path: Path) -> bytes | None:
    """The bytes of a file; None where there is none. Raises UserError where it cannot be read."""
    try:
        _require_file(path)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def _require_file(path: Path) -> None:
    """Raises UserError for a pipe or a device, which could be read without end. What is not there passes."""
    if path.is_fifo() or path.is_socket() or path.is_char_device() or path.is_block_device():
        raise UserError(f"{path} is not a regular file: {REPAIR}.")


def _fault(error: ValidationError) -> str:
    """What is wrong with a `run.json`, as the rest of a sentence."""
    found = misfit(error)
    if found.place == "format":
        return "does not have the format of this version"
    if found.kind == "missing":
        return "lacks its cells or models" if found.place in ("cells", "models") else f"lacks {found.place}"
    if not found.place:
        return f"is not the record of a run ({found.reason})"
    return f"does not fit at {found.place}: {found.reason}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line is, and whose record it holds or why it holds none."""

    number: int
    offset: int
    head: Head | None
    damage: str = ""


def read_lines(folder: Path) -> Iterator[Line]:
    """Every complete line of `samples.jsonl`; a last line without its end (a write cut short) is left out.

    Raises UserError where the file cannot be read.
    """
    for number, raw in enumerate(raw_lines(folder), 1):
        try:
            yield Line(number, raw, decode(raw))
        except Damaged as damage:
            yield Line(number, raw, None, str(damage))


def read_places(folder: Path, name: str = SAMPLES_FILE) -> Iterator[Place]:
    """Where the record of each sample is, without reading all of it: for runs that do not fit into memory.

    name: of the file with the records.
    """
    offset = 0
    for number, raw in enumerate(raw_lines(folder, name), 1):
        try:
            yield Place(number, offset, head(raw))
        except Damaged as damage:
            yield Place(number, offset, None, str(damage))
        offset += len(raw)


def raw_lines(folder: Path, name: str = SAMPLES_FILE) -> Iterator[bytes]:
    """Every complete line of `samples.jsonl` as it is. Raises UserError where the file cannot be read."""
    path = folder / name
    try:
        _require_file(path)
        with path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                yield raw
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error


def read_records(folder: Path) -> Iterator[AnyRecord]:
    """Every undamaged record of `samples.jsonl`, in the order in which they were written."""
    return (line.record for line in read_lines(folder) if line.record is not None)


def read_answers(folder: Path) -> Iterator[tuple[tuple[str, str], bytes]]:
    """The accuracy records of a run in the order in which they were written: cell and sample, and the line of the
    record without its seconds, which no two runs share.
    """
    for record in read_records(folder):
        if isinstance(record, SampleRecord):
            yield (record.cell, record.sample), encode(record.model_copy(update={"seconds": {}}))


def is_torn(folder: Path) -> bool:
    """Whether the last line has no end: the run was killed while writing it, or still goes on."""
    path = folder / SAMPLES_FILE
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"


def whole_lines(path: Path, size: int) -> int:
    """How many of the first `size` bytes of a file are complete lines."""
    with path.open("rb") as file:
        while size > 0:
            start = max(size - 65536, 0)
            file.seek(start)
            at = file.read(size - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            size = start
    return 0
