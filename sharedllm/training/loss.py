"""Next-token loss that never holds all logits: 32K tokens x 49K vocabulary would be 6 GiB in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol, cast

import torch

ROWS = 4096
"""Rows of logits held at once."""


def target_rows(labels: torch.Tensor) -> torch.Tensor:
    """Indices into the flattened (B, S - 1) predictions that have a target; a host tensor makes no device wait."""
    return (labels[:, 1:] != -100).flatten().nonzero()[:, 0]


def next_token_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    compiled: bool = False,
) -> torch.Tensor:
    """Weighted mean cross-entropy of labels[:, 1:] given hidden[:, :-1]; -100 is ignored.

    hidden: (B, S, H) final states. head: (vocabulary, H). weights: (B, S) weight of each label, 1 by default. rows:
    `target_rows(labels)` where it is known already. compiled: by torch.compile, for training on a GPU.
    """
    rows = target_rows(labels) if rows is None else rows
    targets = labels[:, 1:].flatten()[rows]
    scale = hidden.new_ones(len(rows), dtype=torch.float32) if weights is None else weights[:, 1:].flatten()[rows]
    chosen = hidden[:, :-1].flatten(0, 1)[rows]
    pieces = _compiled() if compiled else _loss_and_gradient
    loss = _ChunkedCrossEntropy.apply(chosen, head, targets, scale / scale.sum(), pieces)  # type: ignore[no-untyped-call]  # untyped in torch
    return cast(torch.Tensor, loss)


def _loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the scaled cross-entropies of logits (R, vocabulary), and its gradient, in two passes over them."""
    wide = logits.float()
    log_sum = wide.logsumexp(-1, keepdim=True)
    loss = ((log_sum[:, 0] - wide.gather(1, targets[:, None])[:, 0]) * scale).sum()
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    gradient = ((wide - log_sum).exp() - hit.float()) * scale[:, None]
    return loss, gradient.to(logits.dtype)


@functools.cache
def _compiled() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return torch.compile(_loss_and_gradient, dynamic=True)


class _Gradients(Protocol):
    """What torch hands from forward to backward."""

    needs_input_grad: tuple[bool, ...]
    d_hidden: torch.Tensor | None
    d_head: torch.Tensor | None


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient is computed together with the loss, chunk by chunk, so that nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: _Gradients,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        scale: torch.Tensor,
        pieces: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            loss, d_logits = pieces(hidden[part] @ head.T, targets[part], scale[part])
            if d_hidden is not None:
                d_hidden[part] = d_logits @ head
            if d_head is not None:
                d_head += d_logits.T @ hidden[part]
            total += loss
        ctx.d_hidden, ctx.d_head = d_hidden, None if d_head is None else d_head.to(head.dtype)
        return total

    @staticmethod
    def backward(ctx: _Gradients, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if d is None else d * grads[0].to(d.dtype) for d in (ctx.d_hidden, ctx.d_head)]
        return (*scaled, None, None, None)
