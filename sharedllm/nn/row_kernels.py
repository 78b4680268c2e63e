"""Triton kernels of one row: what a decoding step reads memory for. Called by `sharedllm.nn.row` alone.

Sizes: K inputs of a product, D head size; names in capitals are constants of a compiled kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(
    x,
    gain,
    first,
    second,
    third,
    residual,
    made,
    first_rows,
    second_rows,
    epsilon,
    K: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    SPLIT: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """made = the rows of the weights `first`, `second` and `third` (SPLIT; of `first` alone without) times x (K,).

    NORM: x is normed by its root mean square and `gain` (K,) first; every program computes that norm, from the same
    reads. GATED: silu(first x) * (second x). ADD: residual is added. Each program has ROWS rows, COLUMNS at a time.
    """
    start = tl.program_id(0) * ROWS
    weight, at = first, start
    if SPLIT:
        if start >= first_rows + second_rows:
            weight, at = third, start - first_rows - second_rows
        elif start >= first_rows:
            weight, at = second, start - first_rows
    offset = (at + tl.arange(0, ROWS))[:, None] * K
    columns = tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    others = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for begin in tl.range(0, K, COLUMNS, num_stages=STAGES):
        column = begin + columns
        inside = column < K
        read = tl.load(weight + offset + column[None, :], mask=inside[None, :], other=0.0)
        inputs = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += inputs * inputs
            inputs *= tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
        sums += read.to(tl.float32) * inputs[None, :]
        if GATED:
            other = tl.load(second + offset + column[None, :], mask=inside[None, :], other=0.0)
            others += other.to(tl.float32) * inputs[None, :]
    result = tl.sum(sums, 1)
    scale = 1.0
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / K + epsilon)
        result *= scale
    if GATED:
        result = result / (1.0 + tl.exp(-result)) * (tl.sum(others, 1) * scale)
    row = start + tl.arange(0, ROWS)
    if ADD:
        result += tl.load(residual + row).to(tl.float32)
    tl.store(made + row, result.to(made.dtype.element_ty))


@triton.jit
def rotate_and_store(
    query,
    key,
    value,
    cos,
    sin,
    place,
    made,
    keys,
    values,
    raw,
    query_heads,
    key_heads,
    query_stride,
    key_stride,
    value_stride,
    keys_stride,
    values_stride,
    raw_stride,
    D: tl.constexpr,
    RAW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """made = query, rotated; keys and values at a place = key, rotated, and value; RAW: raw there = key. One program
    for each head; strides are those of heads, D is the step from one place to the next."""
    head, at = tl.program_id(0), tl.load(place)
    half = tl.arange(0, BLOCK)
    inside = half < D // 2
    other = D // 2 + half
    if head < query_heads + key_heads:
        source, target = query + head * query_stride, made + head * D
        if head >= query_heads:
            source = key + (head - query_heads) * key_stride
            target = keys + (head - query_heads) * keys_stride + at * D
        left = tl.load(source + half, mask=inside).to(tl.float32)
        right = tl.load(source + other, mask=inside).to(tl.float32)
        left_cos, left_sin = tl.load(cos + half, mask=inside), tl.load(sin + half, mask=inside)
        right_cos, right_sin = tl.load(cos + other, mask=inside), tl.load(sin + other, mask=inside)
        tl.store(target + half, (left * left_cos - right * left_sin).to(made.dtype.element_ty), mask=inside)
        tl.store(target + other, (right * right_cos + left * right_sin).to(made.dtype.element_ty), mask=inside)
        if RAW and head >= query_heads:
            target = raw + (head - query_heads) * raw_stride + at * D
            tl.store(target + half, left.to(made.dtype.element_ty), mask=inside)
            tl.store(target + other, right.to(made.dtype.element_ty), mask=inside)
    else:
        source = value + (head - query_heads - key_heads) * value_stride
        target = values + (head - query_heads - key_heads) * values_stride + at * D
        tl.store(target + half, tl.load(source + half, mask=inside), mask=inside)
        tl.store(target + other, tl.load(source + other, mask=inside), mask=inside)


@triton.jit
def attend_more(
    keys,
    values,
    query,
    bias,
    out,
    log_sum,
    made,
    places,
    groups,
    keys_step,
    keys_stride,
    values_step,
    values_stride,
    query_stride,
    query_step,
    out_stride,
    out_step,
    bias_stride,
    scale,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
):
    """`fused.attend_more` of one token, one program for each head of queries. Strides are those of key heads, steps
    those of places and of the heads in a group."""
    head = tl.program_id(0).to(tl.int64)  # places of a batch are too many for offsets of 32 bits
    kv, member = head // groups, head % groups
    d = tl.arange(0, BLOCK)
    inside = d < D
    asked = tl.load(query + kv * query_stride + member * query_step + d, mask=inside, other=0.0).to(tl.float32) * scale
    mixed = tl.load(out + kv * out_stride + member * out_step + d, mask=inside, other=0.0).to(tl.float32)
    highest = tl.load(log_sum + head)
    total = 1.0
    begin = 0
    while begin < places:
        place = begin + tl.arange(0, PLACES)
        exists = place < places
        added = tl.load(bias + kv * bias_stride + place, mask=exists, other=float("-inf"))
        if tl.max(added, 0) > float("-inf"):  # most places are empty
            seen = exists[:, None] & inside[None, :]
            key = tl.load(keys + kv * keys_stride + place[:, None] * keys_step + d[None, :], mask=seen, other=0.0)
            value = tl.load(
                values + kv * values_stride + place[:, None] * values_step + d[None, :], mask=seen, other=0.0
            )
            scores = tl.sum(key.to(tl.float32) * asked[None, :], 1) + added
            above = tl.maximum(highest, tl.max(scores, 0))
            weights, before = tl.exp(scores - above), tl.exp(highest - above)
            total = total * before + tl.sum(weights, 0)
            mixed = mixed * before + tl.sum(weights[:, None] * value.to(tl.float32), 0)
            highest = above
        begin += PLACES
    tl.store(made + head * D + d, (mixed / total).to(made.dtype.element_ty), mask=inside)
