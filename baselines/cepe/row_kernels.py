"""Triton kernels of CEPE's cross-attention from one token to encoder states. Called by `baselines.cepe.row` alone.

Sizes: E the encoder's width, D head size; names in capitals are constants of a compiled kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widen(query, weight, made, groups, scale, E, D: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """made (heads, E) = scale * query (heads, D) times the keys' projection (kv heads * D, E), each head by its own D
    rows, which `groups` heads share. One program for COLUMNS columns of a head."""
    head = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < E
    asked = tl.load(query + head * D + d, mask=d < D, other=0.0).to(tl.float32) * scale
    rows = (head // groups * D + d)[:, None] * E
    read = tl.load(weight + rows + column[None, :], mask=(d < D)[:, None] & inside[None, :], other=0.0)
    result = tl.sum(asked[:, None] * read.to(tl.float32), 0)
    tl.store(made + head * E + column, result.to(made.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "share"])
def attend_part(
    query,
    states,
    mixed,
    log_sums,
    count,
    share,
    heads,
    stride,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attention of queries (heads, E), scaled, to a part of the states (count, E), which are keys and values alike.

    mixed (parts, heads, E), log_sums (parts, heads): the result and its log-sum-exp. One program for `share` rows of
    states and HEADS heads. It reads every row once, ROWS at a time, and needs it twice: for the scores and for the mix.
    Products are transposed, since the GPU multiplies no fewer than 64 rows at full rate: they are rows of states' and
    not of heads. stride: from row to row.
    """
    part = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    e = tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    begin = part * share
    end = tl.minimum(begin + share, count)
    own = (head < heads)[None, :] & (e < E)[:, None]
    asked = tl.load(query + head[None, :] * E + e[:, None], mask=own, other=0.0)
    highest = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    sums = tl.zeros((BLOCK, HEADS), tl.float32)
    for first in tl.range(begin, end, ROWS, num_stages=STAGES):
        exists = first + row < end
        place = (first + row).to(tl.int64)[:, None] * stride + e[None, :]
        read = tl.load(states + place, mask=exists[:, None] & (e < E)[None, :], other=0.0)
        scores = tl.where(exists[:, None], tl.dot(read, asked), float("-inf"))
        above = tl.maximum(highest, tl.max(scores, 0))
        weights, before = tl.exp(scores - above[None, :]), tl.exp(highest - above)
        total = total * before + tl.sum(weights, 0)
        sums = tl.dot(tl.trans(read), weights.to(read.dtype), sums * before[None, :])
        highest = above
    target = mixed + (part * heads + head)[None, :] * E + e[:, None]
    tl.store(target, (sums / total[None, :]).to(mixed.dtype.element_ty), mask=own)
    tl.store(log_sums + part * heads + head, highest + tl.log(total), mask=head < heads)


@triton.jit
def narrow(mixed, weight, made, groups, D, E: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """made (heads, D) = the values' projection (kv heads * D, E) times mixed (heads, E), each head by its own D rows,
    which `groups` heads share. One program for ROWS of them."""
    start = tl.program_id(0) * ROWS
    head = start // D
    row = tl.arange(0, ROWS)
    offset = (head // groups * D + start % D + row)[:, None] * E
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in tl.range(0, E, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        inside = column < E
        read = tl.load(weight + offset + column[None, :], mask=inside[None, :], other=0.0)
        inputs = tl.load(mixed + head * E + column, mask=inside, other=0.0)
        sums += read.to(tl.float32) * inputs.to(tl.float32)[None, :]
    tl.store(made + start + row, tl.sum(sums, 1).to(made.dtype.element_ty))
