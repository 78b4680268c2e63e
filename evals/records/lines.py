"""One record, one line of `samples.jsonl`.

A line ends with a checksum of what stands before it, so that a flipped bit is found when the line is read. Lines of
runs recorded before 0.1.0 have no checksum and are taken if they are complete records.
"""

from __future__ import annotations

import zlib
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


class Damaged(ValueError):
    """A line that is not the record that was written."""


def encode(record: AnyRecord) -> bytes:
    """A record as its line, line end included. Text that UTF-8 does not have is replaced."""
    unset = {name for name in type(record).model_fields if name != "error" and getattr(record, name) is None}
    exclude = unset if isinstance(record, PerfRecord) else None
    try:
        body = record.model_dump_json(exclude=exclude).encode()
    except (PydanticSerializationError, UnicodeEncodeError):
        fixed = type(record).model_validate(well_formed(record.model_dump()))
        body = fixed.model_dump_json(exclude=exclude).encode()
    return b'%b%b%08x"}\n' % (body[:-1], CHECK, zlib.crc32(body))


def decode(line: bytes) -> AnyRecord:
    """The record of a line. Raises Damaged with the reason where it is not what was written."""
    text = line.rstrip(b"\n")
    if text[-CHECK_SIZE:].startswith(CHECK):
        body = text[:-CHECK_SIZE] + b"}"
        if text[-10:-2] != b"%08x" % zlib.crc32(body):
            raise Damaged("its checksum does not fit")
        text = body
    try:
        record = _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        found = misfit(error)
        raise Damaged(f"{found.place}: {found.reason}" if found.place else found.reason) from error
    absent = [name for name in ALWAYS_WRITTEN if name not in record.model_fields_set]
    if absent and isinstance(record, SampleRecord):
        raise Damaged(f"it lacks {' and '.join(absent)}")
    return record
