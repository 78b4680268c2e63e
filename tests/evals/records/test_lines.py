"""Whose record a line is, found without reading all of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.records.lines import Damaged, Head, encode, head, head_of
from evals.records.models import Answer, Measurement, PerfRecord, SampleRecord

TEXTS = st.text(max_size=12)


@settings(max_examples=30, deadline=None)
@given(TEXTS, TEXTS, st.none() | TEXTS, st.sampled_from(["ok", "failed"]))
def test_the_head_of_a_line_is_that_of_its_record(cell: str, sample: str, error: str | None, status: str) -> None:
    fields = {"cell": cell, "sample": sample, "status": status, "error": error}
    record = SampleRecord.model_validate({**fields, "metrics": {}, "output": Answer(text="", tokens=0)})
    found = head(encode(record))
    assert found == head_of(record)
    assert (found.cell, found.sample) == (cell, sample)
    assert found.error == ((error or "it failed") if status == "failed" else None)


def test_a_measurement_has_no_sample() -> None:
    assert head(encode(PerfRecord.of("c", Measurement(status="oom")))) == Head("c", None)


def test_a_line_that_was_changed_has_no_head() -> None:
    record = SampleRecord(cell="c", sample="s", metrics={"score": 1.0}, output=Answer(text="yes", tokens=1))
    line = encode(record)
    with pytest.raises(Damaged, match="checksum"):
        head(line.replace(b"yes", b"no!"))
    without = json.loads(line)
    del without["crc"]
    assert head(json.dumps(without).encode() + b"\n") == Head("c", "s")  # as in runs before 0.1.0
    del without["metrics"]
    with pytest.raises(Damaged, match="metrics"):
        head(json.dumps(without).encode() + b"\n")
