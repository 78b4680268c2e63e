"""Records without what no two runs share: times, and the memory that the process happened to take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evals.records.models import Measurement
from evals.records.read import read_records

UNSHARED = {"seconds", "repeats", "rates", "tokens_per_s", "peak_bytes", "reserved_bytes"}
UNSHARED |= {name for name in Measurement.model_fields if name.endswith(("_s", "_ms"))}


def shared_records(folder: Path, but: Iterable[str] = ()) -> list[str]:
    """Every record of a run as text, in the order of the file. but: further fields to leave out."""
    return [record.model_dump_json(exclude={*UNSHARED, *but}) for record in read_records(folder)]
