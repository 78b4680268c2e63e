"""The records of a run: a sample, a cold measurement, the state of a cell, the run itself.

A record that was read from a disk has these fields with these types; what does not fit is refused by the reader.
Fields of later versions are ignored, so that an older reader can open a newer run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, field_validator

from evals.records.json import Json

Tokens = Annotated[int, Field(ge=0, le=1 << 53)]
"""A length in tokens that every table can hold."""


def _measurable(value: float) -> float:
    if value == 0 or math.isnan(value) or SMALLEST <= value <= LARGEST:
        return value
    raise ValueError(f"expected a number from {SMALLEST:g} to {LARGEST:g}, found {value:g}")


SMALLEST, LARGEST = 1e-15, 1e30
Measured = Annotated[float, AfterValidator(_measurable)]
"""A time, rate or count that a device can have and an axis can show: 0, NaN, or from SMALLEST to LARGEST."""
Status = Literal["pending", "ok", "oom", "failed"]
Control = Literal["own", "other", "none"]
"""Whose context a question is asked with: that of its sample, of another, or none."""
CUTS = ("cut_tokens", "cut_prefix", "cut_query")
"""Keys in the `audit` of a sample: tokens cut out of the parts of its prompt."""
OVER_LENGTH = "over_length"
"""Key in the `meta` of a sample that was not asked, since its prompt exceeds its budget: how many tokens it has."""


UNSTEADY, UNSTEADY_S = 1.5, 0.01
"""The slowest of the repeats over the fastest, from which on a time is marked, and seconds that it must be slower."""


class Record(BaseModel):
    """Settings that all records share: NaN survives the way to the disk and back."""

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="constants", protected_namespaces=())


class Answer(Record):
    """What a model answered. tokens: generated, or scored where there is no text. hit_limit: whether the answer budget
    ended it; None where tokens were scored, and in runs recorded before 0.1.0.
    """

    text: str
    tokens: int
    hit_limit: bool | None = None


class PromptEnds(Record):
    """The first and the last tokens of a prompt as text, for people."""

    head: str = ""
    tail: str = ""


class Verdict(Record):
    """What a judge said about an answer. score: 0..1, None where it gave none, and error then says why. asked: hash of
    what it was asked. replies: in full.
    """

    score: float | None = None
    error: str | None = None
    asked: str
    replies: list[str] = Field(default_factory=list)


class SampleRecord(Record):
    """One request and its answer.

    sample: its id, unique within the cell. group: the statistical cluster. meta, reference: from the task; trace:
    from the method; audit: counts and hashes of the prompt. seconds: `read` and `answer`. control: whose context a
    question had (`--context`; perplexity, which scores its controls together, says so in meta). verdicts: of judges,
    by their names.
    """

    kind: Literal["sample"] = "sample"
    cell: str
    sample: str
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    metrics: dict[Annotated[str, Field(min_length=1)], float]
    output: Answer
    reference: object = None
    group: str = ""
    meta: Json = Field(default_factory=dict)
    audit: Json = Field(default_factory=dict)
    prompt: PromptEnds = Field(default_factory=PromptEnds)
    trace: Json = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    control: Control = "own"
    verdicts: dict[str, Verdict] = Field(default_factory=dict)

    @property
    def prompt_cut(self) -> bool:
        """Whether tokens of the prompt were cut to fit it into its budget."""
        return any(self.audit.get(name) for name in CUTS)

    @property
    def skipped(self) -> bool:
        """Whether it was not asked because its prompt exceeds its budget."""
        return self.status == "failed" and OVER_LENGTH in self.meta

    @property
    def uncut_tokens(self) -> float:
        """Tokens of the prompt before anything was cut; NaN where the record does not say."""
        counts = [self.audit.get(name, 0) for name in ("tokens", *CUTS)]
        known = "tokens" in self.audit and all(isinstance(count, int) for count in counts)
        return float(sum(counts)) if known else math.nan


class Measurement(Record):
    """Time and memory of cold requests: seconds, milliseconds (`_ms`), bytes, FLOPs. Absent values are None.

    status oom: memory ran out; peak_bytes is then the peak until that point. device: name of the GPU or processor
    (absent in runs recorded before 0.1.0). ttft_low_s, ttft_high_s: of the repeats, where there are several. tpot_ms:
    median of all tokens after the first. request_s: a whole request as it went by, median of the repeats (absent in
    runs of efficiency 1). tokens_per_s: of the tokens after the first, the slow ones included (in those runs 1 / tpot).
    """

    status: Literal["ok", "oom"]
    error: str | None = None
    device: str | None = None
    context_tokens: int | None = None
    query_tokens: int | None = None
    new_tokens: int | None = None
    repeats: int | None = None
    ttft_s: Measured | None = None
    ttft_low_s: Measured | None = None
    ttft_high_s: Measured | None = None
    read_s: Measured | None = None
    query_s: Measured | None = None
    request_s: Measured | None = None
    tpot_ms: Measured | None = None
    tpot_p95_ms: Measured | None = None
    tokens_per_s: Measured | None = None
    again_s: Measured | None = None
    state_bytes: int | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    prefill_flops: Measured | None = None
    decode_bytes: Measured | None = None
    bus_bytes: Measured | None = None
    rates: dict[str, float] | None = None

    @property
    def unsteady(self) -> bool:
        """Whether the repeats disagree so much that something else must have used the device."""
        low, high = self.ttft_low_s, self.ttft_high_s
        return bool(low and high and high > UNSTEADY * low and high - low > UNSTEADY_S)


class PerfRecord(Measurement):
    """The measurement of a cell."""

    kind: Literal["perf"] = "perf"
    cell: str

    @classmethod
    def of(cls, cell: str, measurement: Measurement) -> PerfRecord:
        return cls(cell=cell, **measurement.model_dump())


class CellState(Record):
    """A cell in `run.json`: what it is, and how far it has come.

    limit: of the last complete pass, None for all samples. samples: how many records that pass has. begun: how often
    a process started on the cell and died, each time with begun_records records. traceback: of a bug; bad_input: a
    person's mistake.
    max_context: the model's window in tokens. data: hash of the task's data files below `--data-dir`.
    planned_s: seconds that its requests were estimated to take. cut, skipped: prompts that were too long for their
    budget, of the last complete pass.
    """

    model: str
    task: str
    length: Tokens | None
    settings: Json
    task_version: int
    metric: str
    higher_is_better: bool
    max_context: Tokens | None = None
    data: str | None = None
    status: Status = "pending"
    error: str | None = None
    limit: int | None = None
    samples: int | None = None
    begun: int = 0
    begun_records: int = 0
    traceback: str | None = None
    bad_input: bool = False
    planned_s: float | None = None
    cut: int = 0
    skipped: int = 0

    @property
    def beyond_window(self) -> bool:
        """Whether the cell asks for more tokens than its model was made for. It runs, and every table says so."""
        return bool(self.length and self.max_context and self.length > self.max_context)

    def covers(self, limit: int | None) -> bool:
        """Whether the last complete pass has all samples that a run with a `--limit` wants."""
        return self.limit is None or (limit is not None and limit <= self.limit)


class ModelEntry(Record):
    """A model in `run.json`.

    fairness: what the method was allowed to use (runs recorded before 0.1.0 call it `budget`). identity: hash of
    all that decides what the model computes; identity_parts: what was hashed (absent in earlier runs).
    """

    preset: Json
    fairness: Json = Field(default_factory=dict, validation_alias=AliasChoices("fairness", "budget"))
    identity: str | None = None
    identity_parts: Json | None = None

    @property
    def method(self) -> str:
        """Name of the method in the registry."""
        return str(self.preset.get("method", ""))

    @property
    def settings(self) -> Json:
        """Settings of the preset, `--set` included."""
        return dict(self.preset.get("settings") or {})

    @field_validator("preset")
    @classmethod
    def _parts_have_names(cls, preset: Json) -> Json:
        return _named(preset, "settings", "weights")


def _named(record: Json, *parts: str) -> Json:
    for part in parts:
        if not isinstance(record.get(part) or {}, dict):
            raise ValueError(f"{part} in it: expected names with values")
    return record


def not_finite(metrics: Mapping[str, float]) -> str | None:
    """Why metrics do not count; None where all are finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"the metric {name} is {value}"
    return None


def _time(text: str) -> str:
    datetime.fromisoformat(text)  # raises ValueError
    return text


class Resumed(Record):
    """A later start of the same run."""

    at: str
    command: list[str] = Field(default_factory=list)
    spec: Json = Field(default_factory=dict)
    environment: Json = Field(default_factory=dict)


class ShardEntry(Record):
    """Which part of a grid a run is.

    index, count: the index-th of count parts, from 1. key: hash of the whole grid, which a run of all of it would
    have. cells: how many the grid has. places: where in the grid each of the part's cells is. split: hash of the
    cells of every part.
    """

    index: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    key: str
    cells: Annotated[int, Field(ge=0)]
    places: list[int]
    split: str


class RunMeta(Record):
    """`run.json`.

    key: hash of what is run. identity_schema: of the cells' ids. merged: the runs that a merged report was made of.
    plan: what the cells' planned seconds rest on. shard: where the run is a part of a grid.
    """

    format: Literal[1] = 1
    created: Annotated[str, AfterValidator(_time)]
    key: str = ""
    identity_schema: int = 1
    command: list[str] = Field(default_factory=list)
    spec: Json = Field(default_factory=dict)
    environment: Json = Field(default_factory=dict)
    models: dict[str, ModelEntry]
    cells: dict[str, CellState]
    resumed: list[Resumed] = Field(default_factory=list)
    timing: list[dict[str, float]] = Field(default_factory=list)
    merged: list[Json] = Field(default_factory=list)
    plan: Json = Field(default_factory=dict)
    shard: ShardEntry | None = None

    @field_validator("environment")
    @classmethod
    def _parts_have_names(cls, environment: Json) -> Json:
        return _named(environment, "packages", "git")

    def as_json(self) -> Json:
        """The content of `run.json`, without the empty entries that most runs have."""
        found = self.model_dump()
        for state in found["cells"].values():
            for name in ("traceback", "bad_input", "begun", "begun_records", "planned_s", "cut", "skipped"):
                if not state[name]:
                    del state[name]
        optional = ("resumed", "timing", "merged", "plan", "shard")
        return {name: value for name, value in found.items() if value or name not in optional}
