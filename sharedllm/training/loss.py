"""Next-token loss that never holds all logits: 32K tokens x 49K vocabulary would be 6 GiB in float32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

ROWS = 4096
"""Rows of logits held at once."""


def next_token_loss(
    hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean cross-entropy of labels[:, 1:] given hidden[:, :-1]; -100 is ignored.

    hidden: (B, S, H) final states. head: (vocabulary, H). weights: (B, S) weight of each label, 1 by default.
    """
    targets = labels[:, 1:].flatten()
    real = targets != -100
    chosen = hidden[:, :-1].flatten(0, 1)
    scale = real.float() if weights is None else weights[:, 1:].flatten() * real
    if not bool(real.all()):
        chosen, targets, scale = chosen[real], targets[real], scale[real]
    return _ChunkedCrossEntropy.apply(chosen, head, targets, scale / scale.sum())


def _chunk(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy((hidden @ head.T).float(), targets, reduction="none") * scale).sum()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient is computed together with the loss, chunk by chunk, so that nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> Any:
        total = hidden.new_zeros((), dtype=torch.float32)
        d_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        d_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            with torch.enable_grad():
                h = hidden[part].detach().requires_grad_(d_hidden is not None)
                w = head.detach().requires_grad_(d_head is not None)
                loss = _chunk(h, w, targets[part], scale[part])
            if h.requires_grad or w.requires_grad:
                loss.backward()
            if d_hidden is not None and h.grad is not None:
                d_hidden[part] = h.grad
            if d_head is not None and w.grad is not None:
                d_head += w.grad
            total += loss.detach()
        ctx.d_hidden, ctx.d_head = d_hidden, None if d_head is None else d_head.to(head.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        scaled = [None if d is None else d * grads[0].to(d.dtype) for d in (ctx.d_hidden, ctx.d_head)]
        return (*scaled, None, None)
