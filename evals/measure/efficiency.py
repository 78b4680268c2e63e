"""Task `efficiency`: time and memory of a method at a length, cold, with random text (and mostly random weights).

Figure 3 and tables 9 to 12 of the paper. `length` is the context that is read; query and answer come after it.
With `--maxlen` instead: the longest context that fits.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evals.errors import UserError
from evals.measure.hardware import devices_name
from evals.measure.task import Measured, MeasuredTask
from evals.records.models import Measurement
from evals.tasks.base import Instance, TaskSettings
from evals.tasks.common.prompt import Audit, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evals.measure.device import Rates
    from evals.methods.base import LongContextModel

GIB = 1 << 30


class RequestSettings(TaskSettings):
    """What a request looks like."""

    query_tokens: int = Field(64, ge=1, description="tokens of the question; a search over the context sees all")
    new_tokens: int = Field(128, ge=2, description="tokens generated, whatever they are")
    search: bool = Field(True, description="whether the query asks something; false: nothing to search for")


class EfficiencySettings(RequestSettings):
    """How often a request is measured."""

    repeats: int = Field(3, ge=1, description="fresh requests after a warm-up; medians are reported")
    questions: int = Field(2, ge=1, description="questions on one read; those after the first count as again_s")


class MaxLengthSettings(RequestSettings):
    """How far the search goes."""

    new_tokens: int = Field(2, ge=2, description="tokens generated after the context")
    start: int = Field(8192, ge=1, description="first context tried, doubled as long as it fits")
    step: int = Field(1024, ge=1, description="the result is a multiple of this")


class _CostTask(MeasuredTask):
    """Random tokens as context."""

    higher_is_better: ClassVar[bool] = False
    settings: RequestSettings

    def answer_tokens(self) -> int:
        return self.settings.new_tokens

    def instance(self, tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> Instance:
        """`length` random context tokens: kernels do not care, and no method finds a short cut."""
        source, words = random.Random(seed), range(len(tokenizer))
        prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        context = source.choices(words, k=length)
        query = source.choices(words, k=self.settings.query_tokens)
        prompt = Prompt(
            prefix=prefix,
            context=context,
            query=query,
            question=(0, len(query)) if self.settings.search else None,
            audit=Audit(tokens=len(prefix) + len(context) + len(query), bos=len(prefix)),
        )
        return Instance(id="cold", prompt=prompt, max_new_tokens=self.settings.new_tokens)


class Efficiency(_CostTask):
    """metric total_s: read, query and `new_tokens` tokens, end to end as they went by.

    Version 1 took all tokens to be as fast as the median one.
    """

    name = "efficiency"
    version = 2
    metric = "total_s"
    lengths = (8192, 16384, 32768, 65536, 131072)
    settings_model = EfficiencySettings
    settings: EfficiencySettings

    def requests(self) -> int:
        return self.settings.repeats + 1

    def measure(self, model: LongContextModel, instance: Instance, rates: Rates) -> Measured:
        from evals.measure.request import cold

        perf = cold(
            model,
            instance,
            new_tokens=self.settings.new_tokens,
            repeats=self.settings.repeats,
            questions=self.settings.questions,
        )
        return Measured(perf, costs(perf, rates) if perf.status == "ok" else {})


class MaxLength(_CostTask):
    """metric max_tokens: the longest context that fits, in steps; the last step within `--length` ends the search."""

    name = "efficiency-maxlen"
    metric = "max_tokens"
    higher_is_better = True
    lengths = (1 << 20,)
    settings_model = MaxLengthSettings
    settings: MaxLengthSettings

    def requests(self) -> int:
        """Doubled and halved until the step: each about as long as the result, which is not known before."""
        return 2

    def check_length(self, length: int | None) -> None:
        """Raises UserError where the search would end before its first step."""
        step = self.settings.step
        if length is not None and length < step:
            raise UserError(
                f"A length of {length} tokens is shorter than the search's step of {step}: choose a longer --length or "
                f"--set step={length}."
            )

    def measure(self, model: LongContextModel, instance: Instance, rates: Rates) -> Measured:
        from evals.measure.longest import attempt, longest

        settings, context = self.settings, instance.prompt.context
        peaks: dict[int, int] = {}

        def fits(tokens: int) -> bool:
            prompt = Prompt(instance.prompt.prefix, context[:tokens], instance.prompt.query, instance.prompt.question)
            ok, peak = attempt(model, Instance(id="probe", prompt=prompt), settings.new_tokens)
            if ok:
                peaks[tokens] = peak
            return ok

        cap = len(context) // settings.step * settings.step
        found = longest(fits, settings.start, cap, settings.step)
        perf = Measurement(
            status="ok" if found else "oom",
            error=None if found else f"not even {settings.step} tokens of context fit",
            device=devices_name(model.devices),
            context_tokens=len(instance.prompt.prefix) + found,
            query_tokens=settings.query_tokens,
            new_tokens=settings.new_tokens,
            repeats=1,
            peak_bytes=peaks.get(found),
        )
        metrics = {"max_tokens": float(found), "limited_by_memory": float(found < cap)}
        return Measured(perf, metrics if found else {})


def costs(perf: Measurement, rates: Rates) -> dict[str, float]:
    """Metrics of a complete measurement: end to end, second question, and the share of the device's floors.

    The floors: prefill FLOPs (by formula) at the matmul rate; bytes read per token (by formula) at the copy rate.
    A share of 1 means that only other arithmetic could be faster. A token that brings its context over the bus has no
    floor here: the rate of the bus is not measured.
    """
    ttft_s, token_s = _known(perf.ttft_s), _known(perf.tpot_ms) / 1000
    prefill_floor_s = _known(perf.prefill_flops) / rates.matmul_flops
    metrics = {
        "total_s": _known(perf.request_s),
        "tokens_per_s": _known(perf.tokens_per_s),
        "prefill_floor_s": prefill_floor_s,
        "prefill_share": prefill_floor_s / ttft_s,
        "reserved_gib": _known(perf.reserved_bytes) / GIB,
    }
    if not perf.bus_bytes:
        token_floor_s = _known(perf.decode_bytes) / rates.copy_bytes
        metrics |= {"token_floor_ms": token_floor_s * 1000, "token_share": token_floor_s / token_s}
    if perf.again_s is not None:
        metrics["again_s"] = perf.again_s
    return metrics


def _known(value: float | None) -> float:
    assert value is not None, "a complete measurement has it"
    return value
