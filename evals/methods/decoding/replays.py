"""Functions of fixed shapes, replayed as CUDA graphs: for reads so short that launching them takes longer than they do.

A function that is replayed reads tensors alone, launches the same kernels for the same key, and waits for no value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from transformers import PreTrainedModel

from evals.methods.base import LongContextModel
from evals.methods.decoding import session as decoding
from evals.methods.decoding.cuda_graph import Pool, capture, enough_free

M = TypeVar("M", bound=PreTrainedModel)
T = TypeVar("T")

GRAPHS = "cuda graph"
PAD = 64
"""Tokens that replayed functions read come in multiples of this, so that few shapes are met. Up to some 200 tokens a
layer takes as long as reading its weights, so that padding costs nothing."""
MOST = 64
"""Keys that are remembered."""
HELD = 1 << 29
"""Bytes that the results of all graphs may hold together."""


@dataclass
class _Entry(Generic[T]):
    """A key: its inputs, in the place where a graph reads them, and the graph with what it returns."""

    inputs: Sequence[torch.Tensor]
    started: bool = False
    graph: torch.cuda.CUDAGraph | None = None
    result: T | None = None
    held: int = 0


class Replays(Generic[T]):
    """Runs functions of tensors; on a GPU the second run of a key is captured, and replayed from then on.

    The first one is launched as it is: kernels are chosen, compiled and loaded then, which no capture allows. All
    graphs share the memory of what they compute on the way, and the keys used least recently give way to others.
    need: bytes of the device that a run may take; with less to spare nothing is captured. most: keys that are
    remembered, MOST where it is left out.
    """

    def __init__(self, need: int, most: int | None = None) -> None:
        self._need, self._most = need, most
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._pool: Pool | None = None

    def __call__(
        self, key: Hashable, function: Callable[..., T], *inputs: torch.Tensor, device: torch.device | None = None
    ) -> T:
        """function(*inputs), which the next call overwrites: copy what is kept. The key has to tell shapes apart.

        The function may read other tensors, too, and write to them, if they are the same ones for all calls of a key
        until `clear`. device: where it runs, if it has no inputs.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry([x.clone() for x in inputs])
        else:
            for place, x in zip(entry.inputs, inputs, strict=True):
                place.copy_(x)
        self._entries.move_to_end(key)
        while len(self._entries) > (self._most or MOST):
            self._entries.popitem(last=False)
        device = device or inputs[0].device
        if device.type == "cuda" and entry.started and entry.graph is None and enough_free(self._need):
            self._capture(entry, function, device)
        if entry.graph is None:
            result = function(*entry.inputs)
            entry.started = True
            return result
        entry.graph.replay()
        return cast(T, entry.result)

    def clear(self) -> None:
        """Give the memory of all graphs back. A key that was run before is captured again at its next run."""
        for entry in self._entries.values():
            entry.graph, entry.result, entry.held = None, None, 0

    def _capture(self, entry: _Entry[T], function: Callable[..., T], device: torch.device) -> None:
        if self._pool is None or all(other.graph is None for other in self._entries.values()):
            self._pool = torch.cuda.graph_pool_handle()  # that of dead graphs cannot be used again
        before = torch.cuda.memory_allocated(device)
        entry.graph, entry.result = capture(lambda: function(*entry.inputs), self._pool, device)
        entry.held = torch.cuda.memory_allocated(device) - before
        for other in list(self._entries.values()):
            if other is not entry and sum(e.held for e in self._entries.values()) > HELD:
                other.graph, other.result, other.held = None, None, 0


class ReplayingReader(Generic[M, T]):
    """Reads contexts with a model. may: whether it may replay reads, where a GPU gains from it. need, most: see
    `Replays`."""

    def __init__(self, model: M, may: bool, need: int, most: int | None = None) -> None:
        self._model, self._may = model, may
        self._replays: Replays[T] = Replays(need, most)

    @property
    def mode(self) -> str:
        """How contexts are read, for a fairness record."""
        return GRAPHS if self._may and self._model.device.type == "cuda" else "eager"

    @property
    def replaying(self) -> bool:
        """Whether reads are replayed."""
        return self._may and self._model.device.type in decoding.GRAPH_DEVICES

    def forget(self) -> None:
        """Give the memory of all graphs back."""
        self._replays.clear()


def padded(tokens: int, step: int = PAD) -> int:
    """The next multiple of `step`."""
    return -(-tokens // step) * step


@dataclass(kw_only=True)
class ReplayingModel(LongContextModel):
    """A method that leaves its reads to a reader."""

    reader: ReplayingReader[Any, Any]

    @property
    def replays(self) -> bool:
        return self.reader.mode == GRAPHS

    def forget(self) -> None:
        self.reader.forget()
