"""Projections of the same states whose weights lie one after another in memory: one product reads them all.

That pays where a product is too small to fill a GPU: the weights of a few rows are read faster in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from sharedllm.nn import row
from sharedllm.nn.layers import Projection


@torch.no_grad()
def join(projections: Sequence[Projection]) -> None:
    """Let the weights of projections lie one after another; those that are not plain stay where they are."""
    linears = cast(Sequence[nn.Linear], projections)
    if not row.are_plain(projections, linears[0].weight):
        return
    weights = [linear.weight for linear in linears]
    whole = torch.split(torch.cat(weights), [len(weight) for weight in weights])
    for weight, part in zip(weights, whole, strict=True):
        weight.data = part


def products(projections: Sequence[Projection], x: torch.Tensor) -> Sequence[torch.Tensor]:
    """Each projection of x (..., in), by one product where they are joined and nothing is trained: then the results are
    parts of one tensor."""
    if torch.is_grad_enabled() or not row.are_plain(projections, x):
        return [projection(x) for projection in projections]
    weights = [linear.weight for linear in cast(Sequence[nn.Linear], projections)]
    first, rows, place = weights[0], 0, weights[0].storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.storage_offset() != place + rows * first.shape[1]:
            return [projection(x) for projection in projections]
        rows += len(weight)
    whole = first.as_strided((rows, first.shape[1]), first.stride(), place)
    return torch.split(F.linear(x, whole), [len(weight) for weight in weights], -1)
