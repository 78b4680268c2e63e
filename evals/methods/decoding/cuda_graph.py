"""Decoding steps whose operations and shapes never change, so that a GPU can replay them as a CUDA graph.

Launching the kernels of one token from Python takes several times as long as running them. A static step reads its
token and its position from tensors on the device and writes nothing that the host must know: captured once in a
CUDA graph, it costs one launch per token.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

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

    token: (1, 1), the id to read. number: (1,), how many were read before it, or what a method counts instead. Both
    are on the device and set before each run, so a run that is repeated writes the same to the same place.
    count: tokens read so far.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.tokens, self.count = tokens, 0
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.number = torch.zeros(1, dtype=torch.long, device=device)

    @property
    def kind(self) -> Hashable:
        """Which of a few sequences of operations the next token takes: one graph for each."""
        return None

    def prepare(self, token: int) -> None:
        """Set on the device what the next run reads."""
        self.token.fill_(token)
        self.number.fill_(self.count)

    @abstractmethod
    def run(self) -> torch.Tensor:
        """Logits (1, vocabulary) after the token. No value may move between host and device."""

    @abstractmethod
    def finish(self) -> None:
        """Add the `count` tokens read to the state, as if it had read them itself."""


class GraphRunner:
    """Runs a static step; on a GPU the second run of a kind is captured, and replayed from then on.

    The first one is launched as it is: kernels are chosen, compiled and loaded then, which no capture allows.
    """

    def __init__(self, step: StaticStep) -> None:
        self.step = step
        self._started: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    @property
    def left(self) -> int:
        """Tokens that can still be read."""
        return self.step.tokens - self.step.count

    def __call__(self, token: int) -> torch.Tensor:
        """Logits (1, vocabulary) after `token`, valid until the next call."""
        self.step.prepare(token)
        logits = self._captured(self.step.kind) if self.step.token.is_cuda else self.step.run()
        self.step.count += 1
        return logits

    def _captured(self, kind: Hashable) -> torch.Tensor:
        if kind not in self._graphs:
            current, site = torch.cuda.current_stream(), _capture_site(self.step.token.device)
            site.stream.wait_stream(current)
            with torch.cuda.stream(site.stream):
                if kind in self._started:
                    enough_free(FREE)
                    self._graphs[kind] = _capture(self.step.run, site.graph.pool())
                else:
                    logits = self.step.run()
            current.wait_stream(site.stream)
            if kind not in self._started:
                self._started.add(kind)
                return logits
        graph, logits = self._graphs[kind]
        graph.replay()
        return logits


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
