"""Fields of records that no two runs share: times, and the memory that the process happened to take."""

from evals.records.models import Measurement

UNSHARED = {"seconds", "repeats", "rates", "tokens_per_s", "peak_bytes", "reserved_bytes"}
UNSHARED |= {name for name in Measurement.model_fields if name.endswith(("_s", "_ms"))}
