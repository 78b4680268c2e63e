"""A Triton kernel of many rows: heads are ordered, rotated and put in their places in one pass over memory. Called by
`sharedllm.nn.fused` alone.

Compiled from plain operations, a write to places that are on the device took ten times as long as its bytes
(results/measured/h200-7b).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place_rows(
    x,
    more,
    order,
    cos,
    sin,
    made,
    at,
    rows,
    x_step,
    more_step,
    made_step,
    head_step,
    heads,
    tokens,
    cos_text,
    cos_token,
    sin_text,
    sin_token,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    ORDERED: tl.constexpr,
    ROTATED: tl.constexpr,
    PLACED: tl.constexpr,
):
    """made at row `at` (PLACED) = row `order` (ORDERED) of x (rows, heads, D) and, after it, more; rotated (ROTATED).

    x_step, more_step, made_step: from one row to the next; head_step: from one head of made to the next. Row i is token
    i % tokens of text i // tokens; cos_text, cos_token, sin_text and sin_token are the steps from one to the next. Each
    program has HEADS heads of one row.
    """
    row = tl.program_id(0).to(tl.int64)
    target, source = row, x + row * x_step
    if ORDERED:
        number = tl.load(order + row)
        source = x + number * x_step
        if number >= rows:
            source = more + (number - rows) * more_step
    if PLACED:
        target = tl.load(at + row)
    head, half = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, BLOCK)
    inside = (head < heads)[:, None] & (half < D // 2)[None, :]
    offset = head[:, None] * D + half[None, :]
    left = tl.load(source + offset, mask=inside)
    right = tl.load(source + offset + D // 2, mask=inside)
    if ROTATED:
        text, token = row // tokens, row % tokens
        cosines, sines = cos + text * cos_text + token * cos_token, sin + text * sin_text + token * sin_token
        exists = half < D // 2
        left_cos, right_cos = tl.load(cosines + half, mask=exists), tl.load(cosines + half + D // 2, mask=exists)
        left_sin, right_sin = tl.load(sines + half, mask=exists), tl.load(sines + half + D // 2, mask=exists)
        one, other = left.to(tl.float32), right.to(tl.float32)
        left = one * left_cos.to(tl.float32)[None, :] - other * left_sin.to(tl.float32)[None, :]
        right = other * right_cos.to(tl.float32)[None, :] + one * right_sin.to(tl.float32)[None, :]
    place = made + target * made_step + head.to(tl.int64)[:, None] * head_step + half[None, :]
    tl.store(place, left.to(made.dtype.element_ty), mask=inside)
    tl.store(place + D // 2, right.to(made.dtype.element_ty), mask=inside)
