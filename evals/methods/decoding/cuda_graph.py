"""Decoding steps whose operations and shapes never change, so that a GPU can replay them as a CUDA graph.

Launching the kernels of one token from Python takes several times as long as running them. A static step reads its
token and its position from tensors on the device and writes nothing that the host must know: captured once in a
CUDA graph, it costs one launch per token. In greedy decoding the device also chooses the token and reads it on, so
that the host launches the next step before it knows the token of this one, and the device never waits for the host.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch.cuda import _POOL_HANDLE

T = TypeVar("T")
Pool = _POOL_HANDLE
"""Memory that graphs share."""

FEWEST = 8
"""Tokens below which a graph does not pay: capturing costs about as much as one token without a graph."""
LONGEST = 256
"""Tokens that one step object takes: it holds, and attends to, the places of all of them from the start."""

FREE = 256 << 20
"""Bytes of the device that must be free for a capture."""


class StaticStep(ABC):
    """Reads up to `tokens` tokens, one per run, on top of a state that does not change until `finish`.

    token: (rows, 1), the id that each row reads; most steps have one row. number: (1,), how many were read before it,
    or what a method counts instead. Both are on the device, and set before each run, by the host (`prepare`) or by the
    device after the run before (`advance`). count: runs so far, those included that are still under way.
    """

    def __init__(self, tokens: int, device: torch.device, rows: int = 1) -> None:
        self.tokens, self.count = tokens, 0
        self.token = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.number = torch.zeros(1, dtype=torch.long, device=device)

    @property
    def kind(self) -> Hashable:
        """Which of a few sequences of operations the next token takes: one graph for each."""
        return None

    def prepare(self, token: int) -> None:
        """Set on the device what the next run reads."""
        self.token.fill_(token)
        self.number.fill_(self.count)

    def advance(self, token: torch.Tensor) -> None:
        """After a run: set what the next one reads, of which the device has chosen the ids `token` (rows,). It leaves
        what `prepare` would, and no value may move between host and device."""
        self.token.copy_(token[:, None])
        self.number += 1

    @abstractmethod
    def run(self) -> torch.Tensor:
        """Logits (rows, vocabulary) after the token. No value may move between host and device."""

    @abstractmethod
    def finish(self) -> None:
        """Add the `count` tokens read to the state, as if it had read them itself."""


class Arrival:
    """Numbers on their way from a device to the host, which waits for them only where it needs them."""

    def __init__(self, size: int, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._values = torch.empty(size, pin_memory=on_gpu)
        self._event = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]  # untyped in torch

    def send(self, values: torch.Tensor) -> Arrival:
        """Start the way of `values`, float32 (size,), as they are after all that was asked of the device so far."""
        self._values.copy_(values, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(values.device))
        return self

    def values(self) -> list[float]:
        """The numbers, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return cast(list[float], self._values.tolist())


class GraphRunner:
    """Runs a static step; on a GPU the second run of a kind is captured, and replayed from then on.

    The first one is launched as it is: kernels are chosen, compiled and loaded then, which no capture allows. A run
    also chooses the likeliest token of each row and sets the step to read it.
    """

    def __init__(self, step: StaticStep) -> None:
        self.step = step
        self._started: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._choice = torch.zeros(2, len(step.token), device=step.token.device)
        self._free = [Arrival(self._choice.numel(), step.token.device) for _ in range(2)]
        self._ahead: Arrival | None = None

    @property
    def left(self) -> int:
        """Tokens that can still be read."""
        return self.step.tokens - self.step.count + (self._ahead is not None)

    def __call__(self, token: int) -> torch.Tensor:
        """Logits (1, vocabulary) after `token`, valid until the next call."""
        assert self._ahead is None, "the device already reads on"
        self.step.prepare(token)
        return self._launch()

    def greedy(self, token: int) -> list[float]:
        """The largest logit after `token`, and its id. If there is room, the device already reads that id on when this
        returns: after one call of `greedy` the next must be one, with that id."""
        if self._ahead is None:
            self(token)
            self._ahead = self._send()
        return self.chosen()

    def read_on(self) -> None:
        """Start a run of what the step is set to read; `chosen` waits for it."""
        self._launch()
        self._ahead = self._send()

    def chosen(self) -> list[float]:
        """The largest logit of each row after the run under way, then the id of each. If there is room, the device
        already reads those ids on when this returns."""
        assert self._ahead is not None, "nothing is under way"
        now, self._ahead = self._ahead, None
        if self.left:
            self.read_on()
        chosen = now.values()
        self._free.append(now)
        return chosen

    def wait(self) -> None:
        """Until the device reads nothing on; what it has read after the last token that was asked for is lost."""
        if self._ahead is not None:
            self._ahead.values()

    def _send(self) -> Arrival:
        return self._free.pop().send(self._choice.flatten())

    def _launch(self) -> torch.Tensor:
        """One run, of what the step is set to read."""
        logits = self._captured(self.step.kind) if self.step.token.is_cuda else self._run()
        self.step.count += 1
        return logits

    def _run(self) -> torch.Tensor:
        logits = self.step.run()
        self._choice.copy_(likeliest(logits.float()))
        self.step.advance(self._choice[1].long())
        return logits

    def _captured(self, kind: Hashable) -> torch.Tensor:
        if kind not in self._graphs:
            current, site = torch.cuda.current_stream(), _capture_site(self.step.token.device)
            site.stream.wait_stream(current)
            with torch.cuda.stream(site.stream):
                if kind in self._started:
                    enough_free(FREE)
                    self._graphs[kind] = _capture(self._run, site.graph.pool())
                else:
                    logits = self._run()
            current.wait_stream(site.stream)
            if kind not in self._started:
                self._started.add(kind)
                return logits
        graph, logits = self._graphs[kind]
        graph.replay()
        return logits


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The largest of float32 logits (..., vocabulary) and its id, which float32 holds exactly: (2, ...) for one
    transfer to the host. The largest is NaN where any is."""
    token = logits.argmax(-1, keepdim=True)
    return torch.stack([logits.gather(-1, token), token.float()])[..., 0]


@dataclass(frozen=True)
class CaptureSite:
    """Where a device captures: one stream, since every stream that runs a matrix product keeps a workspace, and a
    first graph whose memory all others share, since a graph's own would stay reserved after it."""

    stream: torch.cuda.Stream
    graph: torch.cuda.CUDAGraph


def capture(run: Callable[[], T], pool: Pool, device: torch.device) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph of `run` and what it returns, which each replay writes anew, in a pool of memory. Nothing is computed
    yet."""
    current, stream = torch.cuda.current_stream(device), _capture_site(device).stream
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        made = _capture(run, pool)
    current.wait_stream(stream)
    return made


def enough_free(need: int) -> bool:
    """Whether so many bytes of the device are free, after the allocator has given back what it does not use if that is
    what it takes: while a graph is captured it cannot do so by itself."""
    free, unused = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if free < need <= free + unused:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
    return free >= need


@functools.cache
def _capture_site(device: torch.device) -> CaptureSite:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped in torch
    with torch.cuda.stream(stream):
        square = torch.zeros(16, 16, device=device)
        square @ square  # makes the workspace, which would otherwise lie in the memory of the first graph
        return CaptureSite(stream, _capture(lambda: torch.zeros(1, device=device), None)[0])


def _capture(run: Callable[[], T], pool: Pool | None) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph of `run` in a pool of memory, and what it returns. `torch.cuda.graph` would also hand all unused memory
    back to the driver, every time, from which the next read has to fetch it again."""
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        result = run()
    finally:
        graph.capture_end()
    return graph, result
