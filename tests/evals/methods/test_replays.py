"""Functions that are replayed: the right inputs at the right place, and a bounded number of keys."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals.methods.decoding import replays
from evals.methods.decoding.replays import Replays


def test_a_function_reads_its_inputs_at_one_place_for_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph has been captured with is what it reads ever after."""
    monkeypatch.setattr(replays, "MOST", 2)
    made: Replays[torch.Tensor] = Replays(need=0)
    places: list[int] = []

    def double(x: torch.Tensor) -> torch.Tensor:
        places.append(x.data_ptr())
        return 2 * x

    for number in range(3):
        for size in (3, 5):
            x = torch.full((size,), number)
            assert torch.equal(made(size, double, x), 2 * x)
            assert x.data_ptr() not in places
    assert len(set(places)) == 2
    made(7, double, torch.ones(7))
    assert list(made._entries) == [5, 7]


class OnGPU(torch.Tensor):
    """Says that it is on a GPU."""

    device = torch.device("cuda")  # type: ignore[assignment]  # a property of torch


def on_gpu(size: int) -> torch.Tensor:
    return torch.ones(size).as_subclass(OnGPU)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pools of memory that graphs were captured in. As in torch, one whose graphs are all dead is refused."""
    used: list[int] = []
    living: dict[int, int] = {}

    class Graph:
        def __init__(self, pool: int) -> None:
            self.pool = pool
            living[pool] = living.get(pool, 0) + 1

        def __del__(self) -> None:
            living[self.pool] -= 1

        def replay(self) -> None:
            pass

    def capture(run: Callable[[], Any], pool: int, device: torch.device) -> tuple[Graph, Any]:
        assert living.get(pool) != 0, "use_count > 0 INTERNAL ASSERT FAILED"
        used.append(pool)
        graph = Graph(pool)
        return graph, run()

    numbers = count()
    cuda = SimpleNamespace(graph_pool_handle=lambda: next(numbers), memory_allocated=lambda device: 0)
    monkeypatch.setattr(replays, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(replays, "capture", capture)
    monkeypatch.setattr(replays, "enough_free", lambda need: True)
    return used


def test_the_memory_of_graphs_that_gave_way_is_not_used_again(
    pools: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only graph belongs to a key that was not used for a while."""
    monkeypatch.setattr(replays, "MOST", 3)
    made: Replays[torch.Tensor] = Replays(need=0)
    for size in (1, 1, 2, 3, 4, 4, 3):
        made(size, torch.square, on_gpu(size))
    assert pools == [0, 1, 1]
    made.clear()
    made(4, torch.square, on_gpu(4))
    assert pools == [0, 1, 1, 2]


def test_after_a_capture_that_fails_the_next_one_has_memory_of_its_own(pools: list[int]) -> None:
    made: Replays[torch.Tensor] = Replays(need=0)
    failing = iter([False, True, False, False, False])

    def square(x: torch.Tensor) -> torch.Tensor:
        if next(failing):
            raise torch.OutOfMemoryError
        return x * x

    made(3, square, on_gpu(3))
    with pytest.raises(torch.OutOfMemoryError):
        made(3, square, on_gpu(3))
    assert torch.equal(made(3, square, on_gpu(3)), torch.ones(3))
    assert pools == [0, 1]


def test_what_has_never_been_run_to_its_end_is_not_captured(pools: list[int]) -> None:
    """Kernels are chosen, compiled and loaded in the first run, which no capture allows."""
    made: Replays[torch.Tensor] = Replays(need=0)
    failing = iter([True, False, False])

    def square(x: torch.Tensor) -> torch.Tensor:
        if next(failing):
            raise torch.OutOfMemoryError
        return x * x

    with pytest.raises(torch.OutOfMemoryError):
        made(3, square, on_gpu(3))
    made(3, square, on_gpu(3))
    assert pools == []
    made(3, square, on_gpu(3))
    assert pools == [0]


def test_what_only_writes_is_captured_once(pools: list[int]) -> None:
    """A function without inputs and result, which has its tensors at hand."""
    made: Replays[None] = Replays(need=0)
    place, runs = torch.zeros(3), []

    def write() -> None:
        runs.append(1)
        place.fill_(len(runs))

    for _ in range(4):
        made("key", write, device=torch.device("cuda"))
    assert (pools, len(runs)) == ([0], 2)


def test_a_number_of_keys_may_be_given() -> None:
    made: Replays[torch.Tensor] = Replays(need=0, most=3)
    for size in range(5):
        made(size, torch.square, torch.ones(size))
    assert list(made._entries) == [2, 3, 4]
