"""How long the requests of a cell took, from its records."""

from __future__ import annotations

from evals.records.models import PerfRecord, SampleRecord

COLD = "cold"
"""The sample that a measured task writes beside its measurement."""


def sample_seconds(record: SampleRecord) -> float:
    """Seconds of reading and answering; 0 for what only repeats a measurement."""
    return 0.0 if record.sample == record.group == COLD else sum(record.seconds.values())


def cold_seconds(record: PerfRecord) -> float:
    """Seconds of the cold requests, the warm-up counted as one more of them; 0 where memory ran out."""
    if record.ttft_s is None or not record.repeats:
        return 0.0
    further = max((record.new_tokens or 1) - 1, 0) * (record.tpot_ms or 0.0) / 1000  # where it was not measured
    return (record.repeats + 1) * (record.request_s or record.ttft_s + further)
