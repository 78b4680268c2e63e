"""Attention pieces that the lower model and the cross-attention share, for every Llama-like base.

Shapes: B batch, S tokens, H hidden, q / kv number of query / key heads, d head size. Where a model is spread over
several devices, everything follows the layer's own tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from sharedllm.nn.layers import Attention, Norm, Rotation
from sharedllm.nn.recipes import recipe_of
from sharedllm.nn.rotation import apply_rotation

BottomRightKernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]
"""(query, key, value, scale) -> output, shapes and mask as in `attend_last`."""
_kernel: ContextVar[BottomRightKernel | None] = ContextVar("bottom_right_kernel", default=None)
KERNEL_ROWS = 2048
"""The fewest queries for which `bottom_right_kernel` is used. With fewer, launching such a kernel from Python takes too
large a share: with flash-attn-4, windows of 2048 were read 8 to 10 % faster on an H100, windows of 1152 up to 9 %
slower."""


@contextmanager
def bottom_right_kernel(kernel: BottomRightKernel) -> Iterator[None]:
    """Within it, `kernel` computes bottom-right causal attention of half-precision inference."""
    token = _kernel.set(kernel)
    try:
        yield
    finally:
        _kernel.reset(token)


def project_queries(attention: Attention, hidden: torch.Tensor, update: torch.Tensor | None = None) -> torch.Tensor:
    """Queries (B, q, S, d) before rotation, with the base's norm where it has one. update: (B, S, q * d), added to the
    projection."""
    projected = _projected(attention, 0, hidden)
    projected = projected if update is None else projected + update
    return split_heads(projected, attention.head_dim, getattr(attention, "q_norm", None))


def project_keys(attention: Attention, hidden: torch.Tensor) -> torch.Tensor:
    """Keys (B, kv, S, d) before rotation."""
    return split_heads(_projected(attention, 1, hidden), attention.head_dim, getattr(attention, "k_norm", None))


def project_values(attention: Attention, hidden: torch.Tensor) -> torch.Tensor:
    """Values (B, kv, S, d)."""
    return split_heads(_projected(attention, 2, hidden), attention.head_dim, None)


def split_heads(x: torch.Tensor, head_dim: int, norm: Norm | None) -> torch.Tensor:
    """(B, S, heads * d) -> (B, heads, S, d), with a norm of each head (Qwen3, Gemma 3) or of all together (OLMo 2)."""
    if norm is not None and norm.weight.shape[0] == x.shape[-1]:
        x, norm = norm(x), None
    x = torch.unflatten(x, -1, (-1, head_dim))
    return (x if norm is None else norm(x)).transpose(1, 2)


def query_projection(attention: Attention) -> nn.Linear:
    """A copy of the linear map to queries, (H) -> (q * d)."""
    if not recipe_of(attention).fused:
        return copy.deepcopy(cast(nn.Linear, attention.q_proj))
    fused = cast(nn.Linear, getattr(attention, "qkv_proj"))  # noqa: B009 - not a declared member
    weight = fused.weight.detach()[_fused_parts(attention)[0]].clone()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight)
    return made


def _projected(attention: Attention, part: int, hidden: torch.Tensor) -> torch.Tensor:
    """Queries, keys or values (part 0, 1, 2) of all heads, (B, S, heads * d)."""
    if not recipe_of(attention).fused:
        return (attention.q_proj, attention.k_proj, attention.v_proj)[part](hidden)
    rows, fused = _fused_parts(attention)[part], getattr(attention, "qkv_proj")  # noqa: B009
    if type(fused) is nn.Linear and fused.bias is None:
        return F.linear(hidden, fused.weight[rows])
    projected: torch.Tensor = fused(hidden)[..., rows]  # quantised, or with an adapter
    return projected


def _fused_parts(attention: Attention) -> tuple[slice, slice, slice]:
    """Rows of queries, keys and values in a fused projection."""
    config, size = attention.config, attention.head_dim
    keys = config.num_attention_heads * size
    values = keys + config.num_key_value_heads * size
    return slice(0, keys), slice(keys, values), slice(values, None)


def self_attention(
    attention: Attention,
    normed: torch.Tensor,
    mask: torch.Tensor | None,
    rotation: Rotation | None,
    cache: Cache | None,
) -> torch.Tensor:
    """The base's self-attention over normed states (B, S, H), with its kernel, cache and grouped heads.

    mask: as the kernel wants it; None is causal. rotation: cos and sin (B or 1, 1, S, d), None without positions.
    """
    query = apply_rotation(project_queries(attention, normed), rotation)
    key, value = apply_rotation(project_keys(attention, normed), rotation), project_values(attention, normed)
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    dropout = attention.attention_dropout if attention.training else 0.0
    if attention.config._attn_implementation == "sdpa" and mask is None:
        return attention.o_proj(merged(attend_last(query, key, value, attention.scaling, dropout)))
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
    mask = None if mask is None else mask.to(query.device)
    out: torch.Tensor
    out, _ = kernel(
        attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling, sliding_window=window
    )
    return attention.o_proj(out.flatten(2))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool = False,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(scale q k^T) v, (B, q, S, d) -> (B, S, q * d); grouped key heads are not copied.

    mask: boolean, True where a key may be read, broadcastable to (B, 1, S, keys). scale: d ** -0.5 by default.
    """
    grouped = query.shape[1] != key.shape[1]
    if grouped and mask is not None:  # fused kernels take a mask or grouped heads, not both
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        grouped = False
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return merged(out)


def attend_last(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None, dropout: float = 0.0
) -> torch.Tensor:
    """Causal attention of queries that stand at the end of the keys: (B, q, S, d) on (B, kv, keys, d) -> (B, q, S, d).

    A bottom-right causal mask: on a GPU kernels apply it without a tensor, which would keep SDPA from its fastest ones.
    This holds for a single query as well, whose keys grow with every token: cuDNN, torch's choice for it, would plan
    anew for every length (50 ms on an H100; benchmarks/attention_kernels.py). scale: of the scores, d ** -0.5 by
    default. See also `bottom_right_kernel`.
    """
    if (kernel := chosen_kernel(query, key)) is not None:
        return kernel(query, key, value, scale)
    queries, keys, grouped = query.shape[2], key.shape[2], query.shape[1] != key.shape[1]
    compiling, half = torch.compiler.is_compiling(), query.dtype.itemsize == 2
    if queries < keys and half and query.is_cuda and compiling and query.shape[-1] <= 256:
        # the mask object below would break the compiled graph; to this kernel "causal" means bottom-right
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        made = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout, True, scale=scale)
        return cast(torch.Tensor, made[0])
    bias: torch.Tensor | None = None
    causal = False
    if queries == keys > 1:  # decided here: in a compiled graph the comparison itself is a symbol
        causal = True
    if queries < keys and (query.is_cuda or queries > 1):
        if query.is_cuda:
            bias = causal_lower_right(queries, keys)
        else:  # no kernel has that mask there
            bias = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
        if grouped and not can_use_flash_attention(SDPAParams(query, key, value, None, dropout, False, True)):
            repeats = query.shape[1] // key.shape[1]  # only flash kernels know both this mask and grouped heads
            key, value, grouped = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), False
    return F.scaled_dot_product_attention(query, key, value, bias, dropout, causal, scale=scale, enable_gqa=grouped)


def chosen_kernel(query: torch.Tensor, key: torch.Tensor) -> BottomRightKernel | None:
    """The kernel of `bottom_right_kernel`, where there is one and it is used for these (B, heads, S, d)."""
    if torch.compiler.is_compiling():  # which knows no context variables
        return None
    kernel, half = _kernel.get(), query.dtype.itemsize == 2
    usual = query.shape[-1] % 16 == 0  # not the heads of joint attention, eight dimensions wider than a base's
    fits = KERNEL_ROWS <= query.shape[2] < key.shape[2] and half and usual and not torch.is_grad_enabled()
    return kernel if fits else None


def attend_near(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scale: float | None = None
) -> torch.Tensor:
    """`attend_last` of queries that look back `window` keys, themselves included."""
    queries = query.shape[2]
    seen = min(key.shape[2], window - 1 + queries)
    key, value = key[:, :, -seen:], value[:, :, -seen:]
    if seen <= window:
        return attend_last(query, key, value, scale)
    at = seen - queries
    mask = torch.ones(queries, seen, dtype=torch.bool, device=query.device).tril(at).triu(at - window + 1)
    return split_heads(attend(query, key, value, mask=mask, scale=scale), query.shape[-1], None)


def merged(heads: torch.Tensor) -> torch.Tensor:
    """(B, heads, S, d) -> (B, S, heads * d)."""
    return heads.transpose(1, 2).flatten(2)


def attend_nodes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sizes: list[int], scale: float | None = None
) -> torch.Tensor:
    """Causal attention inside each of the packed nodes: (B, heads, S, d) -> (B, S, heads * d), S = sum(sizes)."""
    parts = zip(*(torch.split(x, sizes, 2) for x in (query, key, value)), strict=True)
    return torch.cat([attend(q, k, v, causal=True, scale=scale) for q, k, v in parts], 1)


def numbered(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Tokens (B, T) of rows of that length, numbered through all rows of the batch: what `take` and `rows` want."""
    return tokens + torch.arange(len(tokens), device=tokens.device)[:, None] * length


def take(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """x (B, S, ...) at numbers (B, T) -> (B, T, ...): whole rows, which is much faster than `gather`."""
    numbers = numbers.to(x.device)
    return torch.unflatten(x.flatten(0, 1).index_select(0, numbers.flatten()), 0, numbers.shape)


def rows(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """x (B, heads, S, d) at numbers (B, T) -> (B, heads, T, d)."""
    return take(x.transpose(1, 2), numbers).transpose(1, 2)
