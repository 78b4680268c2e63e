"""What a cell asks of its device, by the formulas of its method, before anything has run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from evals.errors import UserError
from evals.measure.task import MeasuredTask
from evals.methods.base import Cost, LongContextModel, Runtime
from evals.run.devices import BUS_BYTES
from evals.run.grid import Cell
from evals.run.identity import ModelChoice
from evals.run.memory import expected_memory
from evals.run.on_meta import on_meta
from evals.run.spec import RunSpec
from evals.tasks.base import BaseTask
from evals.tasks.settings.controls import controls_of, readings
from evals.tasks.settings.seeds import seeds_of

ASSUMED_SAMPLES = 200
"""Samples of a cell where neither a limit nor the task says how many: as many as most sets of LongBench have."""
ASSUMED_TOKENS = 16384
"""Tokens of a prompt where no length is given and the model has no window."""
ASSUMED_PARAMETERS = 7e9
"""Parameters of a model whose shape is not known on this machine."""
QUERY = 64
"""Tokens of the prompt that count as the query."""
COLD_REQUESTS, COLD_TOKENS = 4, 16
"""A cold pass: a warm-up and three repeats, each of which generates so many tokens (`evals.measure.request`)."""


@dataclass(frozen=True)
class Work:
    """The work of one cell.

    read_flops: of reading all its prompts. steps: tokens generated one after the other. step_bytes: what each of them
    reads from memory. bus_bytes: what comes from host memory for each of them. weight_bytes: of its model.
    state_bytes: what a request holds of its context; None where the method has no formula. assumed: what the numbers
    rest on besides formulas.
    """

    read_flops: float
    steps: int
    step_bytes: float
    weight_bytes: float
    state_bytes: int | None = None
    assumed: tuple[str, ...] = ()
    bus_bytes: int = 0


def expected_work(cells: Sequence[Cell], spec: RunSpec, dtype: str) -> list[Work]:
    """The work of each cell of a run that starts from nothing: what is already measured does not matter.

    dtype: in which the models run, whatever `spec` says.
    """
    formulas: dict[str, _Formula] = {}
    for cell in cells:
        if cell.model.name not in formulas:
            formulas[cell.model.name] = _Formula(_in_dtype(cell.model, dtype))
    return [_work(cell, formulas[cell.model.name], spec) for cell in cells]


def sample_count(task: BaseTask, limit: int | None) -> int | None:
    """Samples of a cell, at most; None where neither the limit nor the task bounds them."""
    if limit is not None and task.endless:
        return limit
    count = task.sample_count()
    bounds = [bound for bound in (limit, count and count * seeds_of(task.settings)) if bound is not None]
    return min(bounds, default=None)


def _in_dtype(choice: ModelChoice, dtype: str) -> ModelChoice:
    return replace(choice, runtime=replace(choice.runtime, dtype=dtype))


class _Formula:
    """The cost of a model's requests: its own formula on a shape without numbers, else what dense models need."""

    def __init__(self, choice: ModelChoice) -> None:
        self.choice = choice
        self.cost = cache(self._cost)  # cells of many tasks share a length
        self.model: LongContextModel | None = None
        self.assumed: tuple[str, ...] = ()
        try:
            preset = choice.preset.override(choice.method.settings_in_force(choice.preset))
            runtime = Runtime(dtype=choice.runtime.dtype, attn_fallback="eager")
            self.model = on_meta(choice, preset, runtime)
        except Exception as error:  # methods of other packages may need real weights: an estimate is no reason to stop
            known = "its parameters" if expected_memory(choice) else f"{ASSUMED_PARAMETERS / 1e9:g} billion parameters"
            why = str(error) if isinstance(error, UserError) else type(error).__name__
            self.assumed = (f"{choice.name}: two FLOPs per token for each of {known} (no formula: {why})",)

    def _cost(self, tokens: int) -> Cost:
        """Of a request that reads so many tokens, the query included."""
        query = min(QUERY, max(tokens - 1, 0))
        if self.model is not None:
            try:
                return self.model.cost(tokens - query, query)
            except UserError:  # a request that does not fit the method (`check_fit` says so where all are alike)
                pass
        weight_bytes, parameters = self._dense
        return Cost(2.0 * parameters * tokens, 2.0 * parameters, weight_bytes, 0, weight_bytes)

    @cached_property
    def _dense(self) -> tuple[int, float]:
        """Bytes and number of parameters."""
        expected, size = expected_memory(self.choice), 4 if self.choice.runtime.dtype == "float32" else 2
        weight_bytes = expected.weight_bytes if expected else round(ASSUMED_PARAMETERS * size)
        return weight_bytes, weight_bytes / size


def _work(cell: Cell, formula: _Formula, spec: RunSpec) -> Work:
    task, name, assumed = cell.task.task, cell.task.name.partition(":")[0], list(formula.assumed)
    tokens = cell.length or cell.model.preset.max_context
    if tokens is None:
        tokens = ASSUMED_TOKENS
        assumed.append(f"{name}: prompts of {ASSUMED_TOKENS} tokens (no --length)")
    # The length of a measured task is that of the context: BOS comes before it, the query after it.
    cost = formula.cost(1 + tokens + QUERY if isinstance(task, MeasuredTask) else tokens)
    if cost.bus_bytes:
        assumed.append(f"{cell.model.name}: each new token brings its context over a bus of {BUS_BYTES / 1e9:g} GB/s")
    if isinstance(task, MeasuredTask):
        reads, steps = float(task.requests()), task.requests() * task.answer_tokens()
    else:
        samples = sample_count(task, spec.limit)
        if samples is None:
            samples = ASSUMED_SAMPLES
            assumed.append(f"{name}: {ASSUMED_SAMPLES} samples a cell (no --limit)")
        cold = COLD_REQUESTS if spec.perf else 0
        reads = samples * task.sample_tokens(tokens) / tokens * readings(task.settings) + cold
        steps = samples * task.answer_tokens() * len(controls_of(task.settings)) + cold * COLD_TOKENS
    return Work(
        reads * cost.prefill_flops,
        steps,
        cost.decode_bytes,
        cost.weight_bytes,
        cost.state_bytes or None,
        tuple(assumed),
        cost.bus_bytes,
    )
