"""Decoding with steps whose operations and shapes never change, so that a GPU can replay them as a graph.

Launching the kernels of one token from Python takes several times as long as running them. A fixed step reads its
token and its place from tensors on the device and writes nothing that the host would have to know: captured once in a
CUDA graph, it costs one launch a token.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Hashable

import torch

FEWEST = 8
"""Tokens below which a graph does not pay: capturing costs about one token that is launched kernel by kernel."""
LONGEST = 256
"""Tokens that one step object takes: it holds, and attends to, the places of all of them from the start."""


class FixedStep(ABC):
    """Reads up to `tokens` tokens, one a run, behind a state that it leaves as it is until `finish`.

    token: (1, 1) the id to read. place: (1,) number of tokens read before it, or what a method counts instead. Both
    are on the device and set before each run, so a run that is repeated writes the same to the same place.
    count: tokens read so far.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.tokens, self.count = tokens, 0
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.place = torch.zeros(1, dtype=torch.long, device=device)

    @property
    def kind(self) -> Hashable:
        """Which of a few sequences of operations the next token takes: one graph for each."""
        return None

    def prepare(self, token: int) -> None:
        """Set on the device what the next run reads."""
        self.token.fill_(token)
        self.place.fill_(self.count)

    @abstractmethod
    def run(self) -> torch.Tensor:
        """Logits (1, vocabulary) after the token. No value may come from or go to the host."""

    @abstractmethod
    def finish(self) -> None:
        """Add the `count` tokens read to the state, as if it had read them itself."""


class Replay:
    """Runs a fixed step; on a GPU the second run of a kind is captured, and replayed from then on.

    The first one is launched as it is: kernels are chosen, compiled and loaded then, which no capture allows.
    """

    def __init__(self, step: FixedStep) -> None:
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
            current, side = torch.cuda.current_stream(), _side_stream(self.step.token.device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                if kind not in self._started:
                    self._started.add(kind)
                    logits = self.step.run()
                else:
                    self._graphs[kind] = _capture(self.step)
            current.wait_stream(side)
            if kind not in self._graphs:
                return logits
        graph, logits = self._graphs[kind]
        graph.replay()
        return logits


def _capture(step: FixedStep) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """`torch.cuda.graph` would also hand all unused memory back to the driver, which the next read has to fetch."""
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        logits = step.run()
    finally:
        graph.capture_end()
    return graph, logits


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One a device: every stream that runs a matrix product keeps a workspace of its own."""
    return torch.cuda.Stream(device)
