"""Projections whose weights lie one after another: one product, the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharedllm.nn import joined
from sharedllm.nn.joined import join, products


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the weights that are multiplied as one."""
    found: list[int] = []
    linear = F.linear

    def watched(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        found.append(len(weight))
        return linear(x, weight, *rest)

    monkeypatch.setattr(joined.F, "linear", watched)
    return found


def three(bias: bool = False) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(12, rows, bias=bias) for rows in (16, 8, 8)]


def test_joined_projections_are_one_product(multiplied: list[int]) -> None:
    linears, x = three(), torch.randn(2, 5, 12)
    weights = [linear.weight.detach().clone() for linear in linears]
    with torch.no_grad():
        plain = [linear(x) for linear in linears]
        multiplied.clear()
        join(linears)
        for got, wanted in zip(products(linears, x), plain, strict=True):
            torch.testing.assert_close(got, wanted)
        for got, wanted in zip(products(linears[1:], x), plain[1:], strict=True):
            torch.testing.assert_close(got, wanted)
        assert multiplied == [32, 16]
        products(linears[::2], x)  # not one after another
        assert multiplied == [32, 16, 16, 8]
    for linear, weight in zip(linears, weights, strict=True):
        assert torch.equal(linear.weight, weight)


@pytest.mark.parametrize("change", ["nothing joined", "bias", "training", "moved"])
def test_others_are_products_of_their_own(change: str, multiplied: list[int]) -> None:
    linears, x = three(bias=change == "bias"), torch.randn(5, 12)
    if change != "nothing joined":
        join(linears)
    if change == "moved":
        linears, x = [linear.double() for linear in linears], x.double()
    with torch.set_grad_enabled(change == "training"):
        made = products(linears, x)
    assert multiplied == [16, 8, 8]
    if change == "training":
        sum(part.square().sum() for part in made).backward()  # type: ignore[union-attr]  # a sum of tensors
        assert all(linear.weight.grad is not None and linear.weight.grad.any() for linear in linears)
