"""CEPE's cross-attention from one token to encoder states, in kernels that read every state once.

A token reads the states in every layer: at 128K tokens of the 7B shape half of its bytes. As two matrix products with a
softmax between them that is two reads, of which neither fits a cache. Here a kernel mixes states with the scores of the
same read, in parts of the context that are joined by their log-sum-exps. Sums are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from sharedllm.nn import launch, row
from sharedllm.nn.flash_decoding import join
from sharedllm.nn.layers import Projection

WIDEST = 1024
"""Of an encoder: states and queries of such a width just fit the shared memory of a multiprocessor (199 of 227 KB)."""
PARTS = 128
"""The most parts of a context: one for almost each of the 132 multiprocessors of an H200."""
ROWS, HEADS, WARPS, STAGES = 32, 32, 8, 3
"""Of states, and of heads, that a program of `attend_part` has at a time. 64 rows would be multiplied faster, but two
such blocks, one in use and one on its way, do not fit."""
LEAST = 2 * ROWS
"""Rows of a part: with fewer, results of parts would be more bytes than the states."""


def fits(hidden: torch.Tensor, states: torch.Tensor, projections: Sequence[Projection], head_dim: int) -> bool:
    """Whether `attend` takes the token of hidden (1, 1, H) and states (1, context, E). projections: of keys and
    values."""
    return (
        row.is_row(hidden)
        and row.are_plain(projections, hidden)
        and (states.dtype, states.device) == (hidden.dtype, hidden.device)
        and states.stride(-1) == 1
        and states.shape[-1] <= WIDEST
        and head_dim % row.ROWS == 0
        and _has_room(states.device)
    )


def attend(
    query: torch.Tensor, states: torch.Tensor, key_projection: Projection, value_projection: Projection
) -> torch.Tensor:
    """Attention to what two plain projections make of states (1, context, E), of queries (1, heads, 1, d): the same
    shape. The scores are scaled by d ** -0.5."""
    from baselines.cepe import row_kernels

    keys, values = (cast(nn.Linear, x).weight for x in (key_projection, value_projection))
    heads, size, width = query.shape[1], query.shape[-1], states.shape[-1]
    groups = heads * size // len(keys)
    wide, made = query.new_empty(heads, width), query.new_empty(query.shape)
    with launch.launches_on(query):
        row_kernels.widen[(heads, -(-width // 128))](
            query.contiguous(), keys, wide, groups, size**-0.5, width, D=size, BLOCK=launch.power(size), COLUMNS=128
        )
        row_kernels.narrow[(heads * size // row.ROWS,)](
            mix(wide, states[0]), values, made, groups, size, E=width, ROWS=row.ROWS, COLUMNS=row.COLUMNS
        )
    return made


def mix(query: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """States (context, E) as scaled queries (heads, E) weigh them: softmax(query states^T) states."""
    from baselines.cepe import row_kernels

    (heads, width), count = query.shape, len(states)
    share = max(LEAST, -(-count // (PARTS * ROWS)) * ROWS)
    parts = -(-count // share)
    block = 16 if heads <= 16 else HEADS
    mixed = query.new_empty(parts, heads, width)
    log_sums = query.new_empty(parts, heads, dtype=torch.float32)
    with launch.launches_on(query):
        row_kernels.attend_part[(parts, -(-heads // block))](
            query,
            states,
            mixed,
            log_sums,
            count,
            share,
            heads,
            states.stride(0),
            E=width,
            BLOCK=max(16, launch.power(width)),
            HEADS=block,
            ROWS=ROWS,
            STAGES=STAGES,
            num_warps=WARPS,
        )
    return join(mixed, log_sums, torch.empty_like(query))


def _has_room(device: torch.device) -> bool:
    """Whether the blocks fit: of the GPUs that these kernels were compiled for, on a Hopper."""
    return torch.cuda.get_device_capability(device) == (9, 0)
