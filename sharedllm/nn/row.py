"""One row at a time: what a decoding step does with the weights of a layer, in kernels that read them once and fast.

Decoding is bound by reading weights. cuBLAS is slow at that for a single row, and norms, gates and sums of residuals
take kernels of their own; here they are part of the products (times: results/measured/h200-7b). These kernels are for
half precision on a GPU, outside training, and for stock layers: whatever else a layer has (biases, adapters, quantised
or offloaded weights) runs as it is. Sums are float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers.activations import SiLUActivation

from sharedllm.nn import fused, launch
from sharedllm.nn.layers import GatedMLP, Norm, Projection, Rotation

ROWS, COLUMNS, WARPS, STAGES = 8, 512, 4, 3
"""Of a weight that a program reads at a time: the best of 20 for all products of a layer together on an H200."""


def is_row(x: torch.Tensor) -> bool:
    """Whether x is a single row (1, ..., 1, H) that the kernels take."""
    return x.numel() == x.shape[-1] and _fits(x)


def are_plain(projections: Sequence[Projection], x: torch.Tensor) -> bool:
    """Whether the kernels can multiply x with the weights of projections: stock ones that lie where x does."""
    return all(
        type(linear) is nn.Linear
        and type(linear.weight) in (nn.Parameter, torch.Tensor)  # not a quantised one that says otherwise
        and linear.bias is None
        and not {"forward", "_hf_hook"} & vars(linear).keys()  # brought from elsewhere call by call
        and not (linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks)
        and (linear.weight.dtype, linear.weight.device) == (x.dtype, x.device)
        and linear.weight.is_contiguous()
        and linear.weight.shape[0] % ROWS == 0
        for linear in projections
    )


def is_plain_norm(norm: Norm, x: torch.Tensor) -> bool:
    """Whether the kernels know a norm: Llama's, where x lies."""
    return hasattr(norm, "variance_epsilon") and norm.weight.device == x.device


def is_plain_mlp(block: GatedMLP, x: torch.Tensor) -> bool:
    """Whether the kernels know an MLP: gated by SiLU, with projections that are plain."""
    if not (hasattr(block, "gate_proj") and isinstance(block.act_fn, nn.SiLU | SiLUActivation)):
        return False
    return are_plain([block.gate_proj, block.up_proj, block.down_proj], x)


def products(
    x: torch.Tensor,
    projections: Sequence[Projection],
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """norm(x) through up to three plain projections, one after another, plus residual: (1, ..., H) -> (1, ..., sum of
    rows)."""
    return _product(x, projections, norm, residual, gated=False)


def gated(x: torch.Tensor, block: GatedMLP, norm: Norm) -> torch.Tensor:
    """What the last projection of a plain MLP reads: silu(gate(norm(x))) * up(norm(x)), (1, ..., H) -> (1, ..., I)."""
    return _product(x, [block.gate_proj, block.up_proj], norm, None, gated=True)


def _product(
    x: torch.Tensor, projections: Sequence[Projection], norm: Norm | None, residual: torch.Tensor | None, gated: bool
) -> torch.Tensor:
    from sharedllm.nn import row_kernels

    weights: list[torch.Tensor] = [linear.weight for linear in cast(Sequence[nn.Linear], projections)]
    rows = [len(weight) for weight in weights] + [0, 0]
    total = rows[0] if gated else sum(rows)
    made = x.new_empty((*x.shape[:-1], total))
    x = x.contiguous()
    weights += [weights[0]] * (3 - len(weights))
    with launch.launches_on(x):
        row_kernels.product[(total // ROWS,)](
            x,
            x if norm is None else norm.weight,
            *weights,
            x if residual is None else residual.to(x.device).contiguous(),
            made,
            rows[0],
            rows[1],
            0.0 if norm is None else norm.variance_epsilon,
            K=x.shape[-1],
            NORM=norm is not None,
            GATED=gated,
            SPLIT=len(projections) > 1 and not gated,
            ADD=residual is not None,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            STAGES=STAGES,
            num_warps=WARPS,
        )
    return made


def rotates(query: torch.Tensor, rotation: Rotation) -> bool:
    """Whether `rotate_and_store` takes queries (1, heads, 1, d): all dimensions rotate."""
    one = len(query) == query.shape[2] == 1
    whole = rotation[0].numel() == query.shape[-1] and query.shape[-1] % 2 == 0
    return one and whole and _fits(query)


def rotate_and_store(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotation: Rotation,
    place: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    raw: torch.Tensor | None = None,
) -> torch.Tensor:
    """The query, rotated; the key, rotated, and the value are stored in keys and values (1, kv heads, places, d).

    query: (1, heads, 1, d). key, value: (1, kv heads, 1, d). place: (1,), on the device. raw: where the key is also
    stored without rotation, as keys.
    """
    from sharedllm.nn import row_kernels

    heads, size = query.shape[1], query.shape[-1]
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    cos, sin = (x.to(query.device).contiguous() for x in rotation)
    made = query.new_empty(query.shape)
    with launch.launches_on(query):
        row_kernels.rotate_and_store[(heads + 2 * key.shape[1],)](
            query,
            key,
            value,
            cos,
            sin,
            place,
            made,
            keys,
            values,
            keys if raw is None else raw,
            heads,
            key.shape[1],
            *(x.stride(1) for x in (query, key, value, keys, values, keys if raw is None else raw)),
            D=size,
            RAW=raw is not None,
            BLOCK=launch.power(size // 2),
            num_warps=1,
        )
    return made


def attends(query: torch.Tensor) -> bool:
    """Whether `attend_more` takes queries (kv, groups, q, d): those of one token."""
    return query.shape[2] == 1 and _fits(query)


def attend_more(
    keys: torch.Tensor,
    values: torch.Tensor,
    query: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """`fused.attend_more` of one token (q = 1)."""
    from sharedllm.nn import row_kernels

    kv, groups, _, size = query.shape
    keys, values, query, out = (x if x.stride(-1) == 1 else x.contiguous() for x in (keys, values, query, out))
    made = query.new_empty(query.shape)
    with launch.launches_on(query):
        row_kernels.attend_more[(kv * groups,)](
            keys,
            values,
            query,
            bias,
            out,
            log_sum.contiguous(),
            made,
            len(keys),
            groups,
            *(x.stride(i) for x in (keys, values) for i in (0, 1)),
            *(x.stride(i) for x in (query, out) for i in (0, 1)),
            bias.expand(kv, 1, 1, -1).stride(0),  # 0 where all heads share one
            scale,
            D=size,
            BLOCK=launch.power(size),
            PLACES=64,
            num_warps=8,
        )
    return made


def _fits(x: torch.Tensor) -> bool:
    return x.dtype.itemsize == 2 and fused.compiles(x)
