"""Attention of a window to what was before it and to itself in parts, so that cuDNN's attention computes most of it.

That is SDPA's first choice on a GPU, but has a causal mask for a square alone. A window is such a square, and all of it
sees all that was before: two plain cases, joined by their log-sum-exps, exactly. Where a window is not as long as those
before it, its newest keys are left to the flash kernel, which knows a causal mask for any numbers of queries and keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention

from sharedllm.nn.attention import attend_last, chosen_kernel
from sharedllm.nn.fused import compiled

BLOCK = 8
"""What was before is read in blocks of so many windows. cuDNN plans anew for every number of keys: blocks need few
plans at any length, and joining them is a pass over the outputs."""
FEWEST = 512
"""Queries from which on there are parts: with few, these passes weigh more."""
WINDOW, ROWS = 2048, 256
"""Where what was before is not in windows of as many tokens as there are queries: cuDNN reads as much of it as is whole
windows of WINDOW, for queries filled up to a multiple of ROWS. So it needs few plans there, too."""


def pays(q: torch.Tensor, keys: torch.Tensor) -> bool:
    """Whether queries (batch, heads, n, d) that are the last of the keys attend in parts: they come after whole windows
    or after a block of keys, and the kernels take them."""
    batch, heads, tokens, _ = q.shape
    before = keys.shape[2] - tokens
    whole = before > 0 and _in_windows(tokens, before)
    if not (whole or before >= BLOCK * WINDOW) or tokens < FEWEST:
        return False
    if batch > 1 or heads != keys.shape[1] or not q.is_cuda or q.dtype.itemsize != 2:
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    params = SDPAParams(q, keys, keys, None, 0.0, False, False)
    return can_use_cudnn_attention(params) and (whole or can_use_flash_attention(params))


def attend_newest(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """`attend_last`, in parts where that pays and no other kernel was chosen for it."""
    parts = pays(query, keys) and chosen_kernel(query, keys) is None
    return (attend_in_parts if parts else attend_last)(query, keys, values, scale)


def attend_in_parts(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of queries (1, heads, n, d) that are the last n of the keys (1, heads, m, d)."""
    tokens = q.shape[2]
    before = keys.shape[2] - tokens
    whole = _in_windows(tokens, before)
    window = tokens if whole else WINDOW
    far = before // window * window
    newest = keys[:, :, far:], values[:, :, far:]
    out, log_sum = (_square if whole else _bottom_right)(q, *newest, scale)
    rows = q if whole else _filled(q, -(-tokens // ROWS) * ROWS)
    blocks = list(zip(*(torch.split(x[:, :, :far], BLOCK * window, 2) for x in (keys, values)), strict=True))
    for number, (some, of_them) in enumerate(blocks, 1):
        more, more_sum = (x[: len(out)] for x in _all(rows, some, of_them, scale))
        dtype = q.dtype if number == len(blocks) else torch.float32  # rounded once, at the end
        out, log_sum = compiled(_joined, out)(out, log_sum, more, more_sum, dtype)
    return torch.unflatten(out, 0, (1, tokens, -1)).transpose(1, 2)


def _in_windows(tokens: int, before: int) -> bool:
    """Whether what was before is windows of that many tokens, which cuDNN's causal mask takes."""
    return before % tokens == 0 and tokens % 64 == 0


def _filled(q: torch.Tensor, rows: int) -> torch.Tensor:
    """Queries (1, heads, n, d) with zeros after them up to so many; by token in memory, as they are."""
    return F.pad(q.transpose(1, 2), (0, 0, 0, 0, 0, rows - q.shape[2])).transpose(1, 2)


Part = tuple[torch.Tensor, torch.Tensor]
"""Attention (n * heads, d) to some keys, and its log-sum-exps (n * heads, 1) in float32."""


def _all(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> Part:
    """Every query sees every key."""
    return _cudnn(q, keys, values, scale, False) if q.is_cuda else _plain(q, keys, values, scale, None)


def _square(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> Part:
    """Causal, of as many queries as keys."""
    return _cudnn(q, keys, values, scale, True) if q.is_cuda else _plain(q, keys, values, scale, 0)


def _bottom_right(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> Part:
    """Causal, of queries that are the last of the keys."""
    if not q.is_cuda:
        return _plain(q, keys, values, scale, keys.shape[2] - q.shape[2])
    # to this kernel "causal" means bottom-right
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, keys, values, 0.0, True, scale=scale)
    return _by_token(out, log_sum)


def _cudnn(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool) -> Part:
    """The stride from text to text means nothing here, but cuDNN's plans depend on it: it is made the same at any
    length."""
    q, keys, values = (x[0].unsqueeze(0) for x in (q, keys, values))
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, keys, values, None, True, 0.0, causal, False, scale=scale
    )
    return _by_token(out, log_sum.reshape(q.shape[:3]))


def _plain(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, before: int | None) -> Part:
    """By plain operations. before: keys before the first query, where the mask is causal."""
    scores = (q @ keys.mT).float() * scale
    if before is not None:
        scores += torch.full_like(scores, -torch.inf).triu(before + 1)
    return _by_token(scores.softmax(-1).to(q.dtype) @ values, scores.logsumexp(-1))


def _by_token(out: torch.Tensor, log_sum: torch.Tensor) -> Part:
    """Of (1, heads, n, d) and (1, heads, n)."""
    return out.transpose(1, 2).flatten(0, 2), log_sum.transpose(1, 2).reshape(-1, 1)


def _joined(
    out: torch.Tensor, log_sum: torch.Tensor, more: torch.Tensor, more_sum: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to the keys of both, rounded to a dtype, and its log-sum-exps."""
    total = torch.logaddexp(log_sum, more_sum)
    made = (log_sum - total).exp() * out.float() + (more_sum - total).exp() * more.float()
    return made.to(dtype), total
