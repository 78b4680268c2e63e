"""Exact counts of work: no method computes, launches, moves or allocates more than what is recorded."""

from __future__ import annotations

import json

import counts
import pytest
import torch
from not_empty import not_empty

STORED = json.loads(counts.FILE.read_text(encoding="utf-8"))
SAME_TORCH = STORED["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", counts.METHODS)
def test_no_count_has_risen(name: str) -> None:
    now = {name: counts.measure(name)}
    assert counts.risen(now, STORED["counts"], SAME_TORCH) == []
    recorded = STORED["counts"][name]
    for stage, found in not_empty(now[name].items()):  # and what fell is recorded, so that it cannot rise again unseen
        assert found["flops"] == pytest.approx(recorded[stage]["flops"], rel=counts.TOLERANCE)


def test_operations_bytes_and_allocations_are_counted() -> None:
    x, y = torch.ones(4, 8), torch.ones(8, 2)

    def call() -> None:
        z = x @ y  # reads 128 + 64 bytes, makes 32
        z.add_(1.0)  # 32
        z.view(8)[:2].reshape(2, 1).t()  # views are free

    assert counts.count(call) == {"flops": 2 * 4 * 8 * 2, "launches": 2, "bytes": 256, "allocated": 32}


def test_a_rise_is_told_and_of_another_torch_only_flops() -> None:
    then = {"a": {"token": {"flops": 1000, "launches": 100}}}
    now = {"a": {"token": {"flops": 1011, "launches": 120}}}
    assert counts.risen(now, then, True) == [("a", "token", "flops", 1000, 1011), ("a", "token", "launches", 100, 120)]
    assert counts.risen(now, then, False) == [("a", "token", "flops", 1000, 1011)]
    assert counts.risen({"a": {"token": {"flops": 1009, "launches": 90}}}, then, True) == []
