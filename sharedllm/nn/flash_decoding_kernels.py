"""Triton kernels of one token's attention to keys in parts. Called by `sharedllm.nn.flash_decoding` alone.

Sizes: D head size; names in capitals are constants of a compiled kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

EMPTY: tl.constexpr = tl.constexpr(-1e30)
"""The highest score of no keys: below all scores, but finite, since the difference of two infinities is NaN."""


@triton.jit
def rotated(x, cos, sin, offset, own, d, D: tl.constexpr):
    """Heads x, rotated: dimension i is paired with i + D / 2. float32, zeros where not `own`."""
    left = d < D // 2
    other = tl.where(left, d + D // 2, d - D // 2)
    here = tl.load(x + offset + d[None, :], mask=own, other=0.0).to(tl.float32)
    there = tl.load(x + offset + other[None, :], mask=own, other=0.0).to(tl.float32)
    cosine = tl.load(cos + d, mask=d < D, other=0.0).to(tl.float32)
    sine = tl.load(sin + d, mask=d < D, other=0.0).to(tl.float32)
    return here * cosine[None, :] + there * tl.where(left, -sine, sine)[None, :]


INTEGERS = ["count", "share", "parts", "held_step", "held_stride", "new_step", "new_stride"]


@triton.jit(do_not_specialize=INTEGERS)
def attend_part(
    query,
    key,
    value,
    cos,
    sin,
    place,
    keys,
    values,
    new_keys,
    new_values,
    raw,
    mixed,
    log_sums,
    count,
    share,
    parts,
    held_step,
    held_stride,
    new_step,
    new_stride,
    scale,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    RAW: tl.constexpr,
    ALIGNED: tl.constexpr,
    TOKENS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attention of a token's queries to a part of all keys: mixed (all parts, heads, D), log_sums (all parts, heads).

    One program for `share` tokens of a key head, TOKENS at a time, and the GROUPS heads that share it, of ROWS rows in
    the products. The first `parts` parts are the `count` tokens held; the others are places of new tokens, of which
    those before `place` are seen. The program in whose part `place` lies begins with the new token itself: it also
    rotates its key and stores it (RAW: also without rotation) and its value. Steps are those from token to token and
    strides those from head to head, in units of ALIGNED, which tells the compiler that reads are aligned.
    """
    part, shared = tl.program_id(0), tl.program_id(1)
    row, d = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    head = shared * GROUPS + row
    known = row < GROUPS
    own = known[:, None] & (d < D)[None, :]
    asked = rotated(query, cos, sin, (head * D)[:, None], own, d, D)
    highest = tl.full((ROWS,), EMPTY, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    begin, step, stride = part * share, held_step, held_stride
    end = tl.minimum(begin + share, count)
    if part >= parts:
        begin, keys, values, step, stride = begin - parts * share, new_keys, new_values, new_step, new_stride
        at = tl.load(place).to(tl.int32)
        end = tl.minimum(begin + share, at)
        if (begin <= at) & (at < begin + share):
            source = tl.zeros((ROWS,), tl.int32)[:, None] + shared * D
            inside = (row >= 0)[:, None] & (d < D)[None, :]
            newest = rotated(key, cos, sin, source, inside, d, D).to(keys.dtype.element_ty)
            read = tl.load(value + source + d[None, :], mask=inside, other=0.0)
            first = (row == 0)[:, None] & (d < D)[None, :]
            target = source * 0 + (shared * stride + at * step) * ALIGNED + d[None, :]
            tl.store(keys + target, newest, mask=first)
            tl.store(values + target, read, mask=first)
            if RAW:
                tl.store(raw + target, tl.load(key + source + d[None, :], mask=inside, other=0.0), mask=first)
            highest = tl.sum(asked * newest.to(tl.float32), 1) * scale
            total = total + 1.0
            sums = read.to(tl.float32)
    asked = asked.to(query.dtype.element_ty)
    token = tl.arange(0, TOKENS)
    offset = shared.to(tl.int64) * stride * ALIGNED + d[None, :]
    for first in tl.range(begin, end, TOKENS, num_stages=STAGES):
        exists = first + token < end
        mask = exists[:, None] & (d < D)[None, :]
        where = (first + token).to(tl.int64)[:, None] * step * ALIGNED + offset
        read_keys = tl.load(keys + where, mask=mask, other=0.0)
        read_values = tl.load(values + where, mask=mask, other=0.0)
        scores = tl.where(exists[None, :], tl.dot(asked, tl.trans(read_keys)) * scale, float("-inf"))
        above = tl.maximum(highest, tl.max(scores, 1))
        weights, before = tl.exp(scores - above[:, None]), tl.exp(highest - above)
        total = total * before + tl.sum(weights, 1)
        sums = sums * before[:, None] + tl.dot(weights.to(read_values.dtype), read_values)
        highest = above
    heads = tl.num_programs(1) * GROUPS
    target = (part * heads + head)[:, None] * D + d[None, :]
    tl.store(mixed + target, sums / tl.maximum(total, 1.0)[:, None], mask=own)  # with any keys the total is above 1
    tl.store(log_sums + part * heads + head, highest + tl.log(total), mask=known)


@triton.jit
def join(mixed, log_sums, made, parts, heads, D, PARTS: tl.constexpr, COLUMNS: tl.constexpr):
    """made (heads, D) = attention to the keys of all parts (PARTS at most), by the mixed (parts, heads, D) and log_sums
    (parts, heads) of each. One program for COLUMNS columns of a head."""
    head = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.arange(0, PARTS)
    exists = part < parts
    log_sum = tl.load(log_sums + part * heads + head, mask=exists, other=float("-inf"))
    weights = tl.exp(log_sum - tl.max(log_sum, 0))
    own = exists[:, None] & (column < D)[None, :]
    read = tl.load(mixed + (part * heads + head)[:, None] * D + column[None, :], mask=own, other=0.0)
    result = tl.sum(weights[:, None] * read.to(tl.float32), 0) / tl.sum(weights, 0)
    tl.store(made + head * D + column, result.to(made.dtype.element_ty), mask=column < D)
