"""One record, one line of `samples.jsonl`.

A line ends with a checksum of what stands before it, so that a flipped bit is found when the line is read. Lines of
runs recorded before 0.1.0 have no checksum and are taken if they are complete records.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from evals.records.json import well_formed
from evals.records.models import PerfRecord, SampleRecord
from sharedllm.validation import misfit

AnyRecord = SampleRecord | PerfRecord
CHECK = b',"crc":"'
CHECK_SIZE = len(CHECK) + 8 + len(b'"}')
ALWAYS_WRITTEN = ("status", "reference", "group", "meta", "audit", "prompt", "trace", "seconds")
"""Fields of a sample that have a default in memory and stand in every line: without them, a line was edited."""

_ADAPTER: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


_TEXT = rb'("[^"\\]*(?:\\.[^"\\]*)*")'
_HEAD = re.compile(
    rb'\{"kind":"sample","cell":%b,"sample":%b,"status":"(ok|failed)","error":(?:null|%b),' % (_TEXT, _TEXT, _TEXT)
)
"""How `encode` begins the line of a sample."""


@dataclass(frozen=True, slots=True)
class Head:
    """Whose record a line is. sample: None for a cold measurement. error: why a sample has no score."""

    cell: str
    sample: str | None
    error: str | None = None


class Damaged(ValueError):
    """A line that is not the record that was written."""


def encode(record: AnyRecord) -> bytes:
    """A record as its line, line end included. Text that UTF-8 does not have is replaced."""
    exclude = _left_out(record)
    try:
        body = record.model_dump_json(exclude=exclude).encode()
    except (PydanticSerializationError, UnicodeEncodeError):
        fixed = type(record).model_validate(well_formed(record.model_dump()))
        body = fixed.model_dump_json(exclude=exclude).encode()
    return b'%b%b%08x"}\n' % (body[:-1], CHECK, zlib.crc32(body))


def _left_out(record: AnyRecord) -> set[str]:
    """Fields that are not written: those without a value of a measurement, and the verdicts where there are none."""
    if isinstance(record, SampleRecord):
        return set() if record.verdicts else {"verdicts"}
    return {name for name in type(record).model_fields if name != "error" and getattr(record, name) is None}


def head(line: bytes) -> Head:
    """Whose record a line is, at a tenth of the time of `decode`: what a fitting checksum covers is what we wrote.

    Raises Damaged with the reason where the line is not what was written.
    """
    body = _checked(line)
    found = _HEAD.match(body) if body is not None else None
    if found is not None:
        error = (_text(found[4]) if found[4] else "") or "it failed"
        return Head(_text(found[1]), _text(found[2]), error if found[3] == b"failed" else None)
    return head_of(decode(line))


def head_of(record: AnyRecord) -> Head:
    """Whose record it is."""
    if isinstance(record, PerfRecord):
        return Head(record.cell, None)
    return Head(record.cell, record.sample, (record.error or "it failed") if record.status == "failed" else None)


def _text(quoted: bytes) -> str:
    """The string that a JSON literal stands for."""
    return str(json.loads(quoted)) if b"\\" in quoted else quoted[1:-1].decode()


def _checked(line: bytes) -> bytes | None:
    """A line without its checksum; None where it has none. Raises Damaged where the checksum does not fit."""
    text = line.rstrip(b"\n")
    if not text[-CHECK_SIZE:].startswith(CHECK):
        return None
    body = text[:-CHECK_SIZE] + b"}"
    if text[-10:-2] != b"%08x" % zlib.crc32(body):
        raise Damaged("its checksum does not fit")
    return body


def decode(line: bytes) -> AnyRecord:
    """The record of a line. Raises Damaged with the reason where it is not what was written."""
    body = _checked(line)
    text = line.rstrip(b"\n") if body is None else body
    try:
        record = _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        found = misfit(error)
        raise Damaged(f"{found.place}: {found.reason}" if found.place else found.reason) from error
    absent = [name for name in ALWAYS_WRITTEN if name not in record.model_fields_set]
    if absent and isinstance(record, SampleRecord):
        raise Damaged(f"it lacks {' and '.join(absent)}")
    return record
