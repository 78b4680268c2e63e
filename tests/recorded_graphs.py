"""CUDA graphs that a machine without GPUs does not have: operations that are recorded, and run again.

What a GPU would do wrongly goes wrong here, too: a recording knows no values of the host that came later, reads and
writes the tensors that it was recorded with, and what it computes on the way is lost when another one is replayed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evals.methods.decoding import replays
from evals.methods.decoding import session as decoding
from evals.methods.decoding.cuda_graph import GraphRunner

WAITING = ("_local_scalar_dense", "nonzero", "masked_select")
"""Operations that bring values to the host, which no capture allows."""


class Recorder(TorchDispatchMode):
    """Within it operations are recorded. What they write to tensors from outside is taken back by `undo`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor | None]]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._own: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(function)
        assert not any(word in name for word in WAITING), f"{name} in a capture"
        for number, argument in enumerate(function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(args[number] if number < len(args) else kwargs[argument.name])
        found = function(*args, **kwargs)
        given = {_place(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = [x if isinstance(x, torch.Tensor) and _place(x) not in given else None for x in tree_leaves(found)]
        self._own |= {_place(x) for x in made if x is not None}
        self.operations.append((function, args, kwargs, made))
        return found

    def undo(self) -> None:
        for whole, before in self._before.values():
            whole.copy_(before)

    def _keep(self, x: torch.Tensor) -> None:
        if _place(x) not in self._own and _place(x) not in self._before:
            whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())  # type: ignore[call-overload]  # a storage
            self._before[_place(x)] = whole, whole.clone()


class Recording:
    """A stand-in for `torch.cuda.CUDAGraph`. As there, nothing is computed before the first replay."""

    every: ClassVar[weakref.WeakSet[Recording]] = weakref.WeakSet()

    def __init__(self, run: Callable[[], Any]) -> None:
        with Recorder() as recorder:
            self.result = run()
        recorder.undo()
        self._operations = recorder.operations
        self.every.add(self)

    def replay(self) -> None:
        for recording in list(self.every):
            recording._spoil()
        for function, args, kwargs, made in self._operations:
            for place, x in zip(made, tree_leaves(function(*args, **kwargs)), strict=True):
                if place is not None:
                    place.copy_(x)

    def _spoil(self) -> None:
        """Memory is shared: nothing that was computed on the way is left."""
        for _, _, _, made in self._operations:
            for x in made:
                if x is not None:
                    x.fill_(torch.nan if x.is_floating_point() else 0)


def record(patch: pytest.MonkeyPatch) -> list[Recording]:
    """Reads and steps take the way of a GPU, and are recorded and replayed; all recordings so far."""
    made: list[Recording] = []

    def recorded(run: Callable[[], Any], *_: Any) -> tuple[Recording, Any]:
        made.append(Recording(run))
        return made[-1], made[-1].result

    call, capture = replays.Replays.__call__, replays.Replays._capture

    def replayed(self: Any, key: Any, function: Any, *inputs: Any, device: Any = None) -> Any:
        entry = self._entries.get(key)
        if entry is None or not entry.started or entry.graph is not None:
            return call(self, key, function, *inputs, device=device)
        capture(self, entry, function, torch.device("cpu"))
        return call(self, key, function, *inputs, device=device)

    def launched(runner: Any) -> torch.Tensor:
        kind = runner.step.kind
        if kind in runner._started and kind not in runner._graphs:
            runner._graphs[kind] = recorded(runner._run)
        if kind in runner._graphs:
            graph, logits = runner._graphs[kind]
            graph.replay()
        else:
            runner._started.add(kind)
            logits = runner._run()
        runner.step.count += 1
        return torch.as_tensor(logits)

    patch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
    patch.setattr(replays, "capture", recorded)
    patch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    patch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    patch.setattr(replays.Replays, "__call__", replayed)
    patch.setattr(GraphRunner, "_launch", launched)
    return made


def _place(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()
