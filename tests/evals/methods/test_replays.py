"""Functions that are replayed: the right inputs at the right place, and a bounded number of keys."""

from __future__ import annotations

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
