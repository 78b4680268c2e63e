"""The cold performance pass: time and memory of one request that shares nothing with another.

A latency never comes from a request that reused a read, and a peak never includes another request.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from evals.measure.hardware import devices_name
from evals.methods.base import LongContextModel, Query
from evals.records.models import Measurement
from evals.tasks.base import Instance

NEW_TOKENS = 16
REPEATS = 3
CPU_SECONDS, CPU_ONCE_S = 2.0, 20.0
"""On the CPU no third repeat starts after the first many seconds were measured, and no second after so many: a long
request varies little. Two repeats that differ show that the machine was busy; two that agree do not show that it was
not."""
CPU_WARM_UP_TOKENS = 128
HOST = torch.device("cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the host had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate memory" in text
        or "not enough memory: you tried to allocate" in text
        or "CUDA out of memory" in text
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


def synchronize(devices: Sequence[torch.device]) -> None:
    """Wait until the devices have done what was asked: host time is device time after this."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


class PeakMemory:
    """Peak memory since `start`: allocated bytes on a GPU, resident bytes of the process on the CPU.

    Of several GPUs the sum of their peaks, which they may have reached at different times.
    Linux can reset a process's peak (`clear_refs`); elsewhere the value at the time of reading is used.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = devices
        self._on_gpu = devices[0].type == "cuda"
        self._resettable = False

    def start(self) -> None:
        if self._on_gpu:
            torch.cuda.empty_cache()
            for device in self.devices:
                torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._resettable = True
        except OSError:
            self._resettable = False

    def peak_bytes(self) -> int:
        if self._on_gpu:
            return sum(map(torch.cuda.max_memory_allocated, self.devices))
        if self._resettable:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        return psutil.Process().memory_info().rss

    def reserved_bytes(self) -> int:
        """What the allocator took from the device; on the CPU there is no such thing but the peak."""
        if self._on_gpu:
            return sum(map(torch.cuda.max_memory_reserved, self.devices))
        return self.peak_bytes()


@dataclass
class Timing:
    """One cold request. token_s: the time of each token after the first; again_s: of each further question on
    the same read, until its first token."""

    read_s: float
    query_s: float
    token_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)
    state_bytes: int = 0


class Clock:
    """Marks in a device's work: CUDA events on a GPU, where work is asynchronous, the host's clock on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def mark(self, token: int = 0) -> None:
        """Now. Also serves as `on_token`."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no stub for it
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def spans(self) -> list[float]:
        """Seconds between each mark and the next."""
        if self._device.type == "cuda":
            synchronize([self._device])
            events = zip(self._events, self._events[1:], strict=False)
            return [one.elapsed_time(other) / 1000 for one, other in events]
        return [other - one for one, other in zip(self._times, self._times[1:], strict=False)]


def request(model: LongContextModel, instance: Instance, new_tokens: int, questions: int = 1) -> Timing:
    """Read the context and generate `new_tokens`, with nothing kept from before.

    Where an instance has a target instead of a generation, its tokens are read as part of the query: both
    kinds then cost the whole length. No stop token applies, so that every method generates as many tokens.
    questions: how many are put to the one read. The further ones are the query with its ids rotated, so that a
    method cannot answer from what it did for the one before; they ask for one token. All times are the host's: a token
    is known when its id is there, and a GPU may be at the next one by then.
    """
    prompt = instance.prompt
    query = Query([*prompt.query, *(instance.target or [])], prompt.question)
    context = model.unread_context(prompt.context, prompt.prefix, query.ids)
    clock = Clock(HOST)
    synchronize(model.devices)
    clock.mark()
    session = model.prefill(context, prefix_ids=prompt.prefix)
    synchronize(model.devices)
    clock.mark()
    if not session.generate(query, new_tokens, on_token=clock.mark):
        clock.mark()  # a server ended the answer at once, which stops no other model: its end is what was waited for
    read_s, query_s, *token_s = clock.spans()
    again_s = []
    for turn in range(1, questions):
        other = Query([*query.ids[turn:], *query.ids[:turn]], query.question)
        clock = Clock(HOST)
        clock.mark()
        session.generate(other, 1, on_token=clock.mark)
        again_s += clock.spans()
    return Timing(read_s, query_s, token_s, again_s, session.state_bytes)


def cold(
    model: LongContextModel,
    instance: Instance,
    *,
    new_tokens: int = NEW_TOKENS,
    repeats: int = REPEATS,
    questions: int = 1,
) -> Measurement:
    """Time and memory of an instance: medians over fresh requests.

    Times are in seconds, `tpot` in milliseconds. Out of memory is a result: status `oom` with the peak until
    then. The peak is of the measured requests alone, weights included; of a model that replays also of the warm-up,
    which takes the memory of its graphs. questions: see `request`; with more than one the record has `again_s`.
    """
    prompt = instance.prompt
    context_tokens = len(prompt.prefix) + len(prompt.context)
    query_tokens = len(prompt.query) + len(instance.target or [])
    model.forget()
    gc.collect()  # a session of the accuracy pass may still hang in a reference cycle
    memory = PeakMemory(model.devices)
    memory.start()
    counted = Measurement(
        status="ok",
        device=devices_name(model.devices),
        context_tokens=context_tokens,
        query_tokens=query_tokens,
        new_tokens=new_tokens,
        repeats=0,
    )
    try:
        _warm_up(model, instance, new_tokens)
        if not model.replays:
            memory.start()
        runs = _repeat(model, instance, new_tokens, repeats, questions)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        lost = out_of_memory(memory, error)
        return counted.model_copy(update=lost.model_dump(exclude_none=True))
    if model.remote:
        # tokens may arrive several at a time: the median gap would be that between two of one piece
        times = _summary(runs, average=statistics.fmean)
        answered = 1 + max(len(run.token_s) for run in runs)
        return counted.model_copy(update={**times, "repeats": len(runs), "new_tokens": answered})
    cost = model.cost(context_tokens, query_tokens)
    return counted.model_copy(
        update={
            **_summary(runs),
            "repeats": len(runs),
            "state_bytes": runs[-1].state_bytes,
            "peak_bytes": memory.peak_bytes(),
            "reserved_bytes": memory.reserved_bytes(),
            "prefill_flops": cost.prefill_flops,
            "decode_bytes": cost.decode_bytes,
            "bus_bytes": cost.bus_bytes if cost.bus_bytes and model.device.type != "cpu" else None,
        }
    )


def out_of_memory(memory: PeakMemory, error: BaseException) -> Measurement:
    """A measurement that ended for lack of memory: the reason, and the peak until then."""
    return Measurement(
        status="oom",
        error=first_line(error),
        device=devices_name(memory.devices),
        peak_bytes=memory.peak_bytes(),
        reserved_bytes=memory.reserved_bytes(),
    )


def _warm_up(model: LongContextModel, instance: Instance, new_tokens: int) -> None:
    """A GPU picks kernels by shape, so there the request itself, twice where the second one is captured; the CPU only
    has to page in the weights."""
    if model.device.type == "cuda":
        for _ in range(1 + model.replays):
            request(model, instance, new_tokens)
    else:
        model.prefill(instance.prompt.context[:CPU_WARM_UP_TOKENS], instance.prompt.prefix)


def _repeat(model: LongContextModel, instance: Instance, new_tokens: int, repeats: int, questions: int) -> list[Timing]:
    runs: list[Timing] = []
    begin = time.perf_counter()
    while len(runs) < repeats:
        runs.append(request(model, instance, new_tokens, questions))
        spent = time.perf_counter() - begin
        if model.device.type == "cpu" and spent > (CPU_ONCE_S if len(runs) == 1 else CPU_SECONDS):
            break
    return runs


def _summary(
    runs: list[Timing], average: Callable[[list[float]], float] = statistics.median
) -> dict[str, float | None]:
    """average: of the times of tokens."""
    gaps = sorted(gap for run in runs for gap in run.token_s)
    tpot = average(gaps) if gaps else None
    again = [seconds for run in runs for seconds in run.again_s]
    p95 = gaps[min(round(0.95 * (len(gaps) - 1)), len(gaps) - 1)] if gaps else None
    first = [run.read_s + run.query_s for run in runs]
    several = len(first) > 1
    return {
        "ttft_s": statistics.median(first),
        "ttft_low_s": min(first) if several else None,
        "ttft_high_s": max(first) if several else None,
        "read_s": statistics.median(run.read_s for run in runs),
        "query_s": statistics.median(run.query_s for run in runs),
        "request_s": statistics.median(run.read_s + run.query_s + sum(run.token_s) for run in runs),
        "tpot_ms": None if tpot is None else tpot * 1000,
        "tpot_p95_ms": None if p95 is None else p95 * 1000,
        "tokens_per_s": len(gaps) / sum(gaps) if sum(gaps) else None,
        "again_s": statistics.median(again) if again else None,
    }


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
