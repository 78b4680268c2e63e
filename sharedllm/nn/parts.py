"""Attention of a window to what was before it and to itself in parts, so that cuDNN's attention computes it.

That is SDPA's first choice on a GPU, but has a causal mask for a square alone. A window is such a square, and all of it
sees all that was before: two plain cases, joined by their log-sum-exps, exactly.
"""

from __future__ import annotations

import torch
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

from sharedllm.nn.attention import attend_last, chosen_kernel
from sharedllm.nn.fused import compiled

BLOCK = 8
"""What was before is read in blocks of so many windows. cuDNN plans anew for every number of keys: blocks need few
plans at any length, and joining them is a pass over the outputs."""
FEWEST = 512
"""Queries from which on there are parts: with few, these passes weigh more."""


def pays(q: torch.Tensor, keys: torch.Tensor) -> bool:
    """Whether queries (batch, heads, n, d) that are the last of the keys attend in parts: there are whole windows, and
    cuDNN takes them."""
    batch, heads, tokens, _ = q.shape
    before = keys.shape[2] - tokens
    whole = before > 0 and before % tokens == 0 and tokens >= FEWEST and tokens % 64 == 0
    if not whole or batch > 1 or heads != keys.shape[1] or not q.is_cuda or q.dtype.itemsize != 2:
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return can_use_cudnn_attention(SDPAParams(q, keys, keys, None, 0.0, False, False))


def attend_newest(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """`attend_last`, in parts where that pays and no other kernel was chosen for it."""
    parts = pays(query, keys) and chosen_kernel(query, keys) is None
    return (attend_in_parts if parts else attend_last)(query, keys, values, scale)


def attend_in_parts(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of queries (1, heads, n, d) that are the last n of the keys (1, heads, m, d), m a multiple of
    n."""
    tokens = q.shape[2]
    before = keys.shape[2] - tokens
    out, log_sum = _part(q, keys[:, :, before:], values[:, :, before:], scale, causal=True)
    blocks = list(zip(*(torch.split(x[:, :, :before], BLOCK * tokens, 2) for x in (keys, values)), strict=True))
    for number, (some, of_them) in enumerate(blocks, 1):
        more, more_sum = _part(q, some, of_them, scale, causal=False)
        dtype = q.dtype if number == len(blocks) else torch.float32  # rounded once, at the end
        out, log_sum = compiled(_joined, out)(out, log_sum, more, more_sum, dtype)
    return torch.unflatten(out, 0, (1, tokens, -1)).transpose(1, 2)


def _part(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (n * heads, d) to some keys, and its log-sum-exps (n * heads, 1) in float32.

    The stride from text to text means nothing here, but cuDNN's plans depend on it: it is made the same at any length.
    """
    q, keys, values = (x[0].unsqueeze(0) for x in (q, keys, values))
    if q.is_cuda:
        out, log_sum, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, keys, values, None, True, 0.0, causal, False, scale=scale
        )
    else:
        scores = (q @ keys.mT).float() * scale
        if causal:
            scores += torch.full_like(scores, -torch.inf).triu(1)
        out, log_sum = scores.softmax(-1).to(q.dtype) @ values, scores.logsumexp(-1)
    log_sum = log_sum.reshape(q.shape[:3])
    return out.transpose(1, 2).flatten(0, 2), log_sum.transpose(1, 2).reshape(-1, 1)


def _joined(
    out: torch.Tensor, log_sum: torch.Tensor, more: torch.Tensor, more_sum: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to the keys of both, rounded to a dtype, and its log-sum-exps."""
    total = torch.logaddexp(log_sum, more_sum)
    made = (log_sum - total).exp() * out.float() + (more_sum - total).exp() * more.float()
    return made.to(dtype), total
