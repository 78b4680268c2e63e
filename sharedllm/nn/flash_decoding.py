"""Attention of one new token to many keys, as in Flash-Decoding (Dao et al., 2023): keys are split into parts that are
read at the same time, and the parts are joined by their log-sum-exps.

In a decoding step a token's heads are also rotated, its key and value stored, and the keys that came since the step was
captured seen. The kernel of the parts does this too: attention is two kernels, which read every key and value once.
PyTorch's flash kernel and what stands around it take 1.5 to 2 times as long (benchmarks/decode_attention.py). Sums are
float32. Which tensors are taken is as in `sharedllm.nn.row`.
"""

from __future__ import annotations

import torch

from sharedllm.nn import launch, row
from sharedllm.nn.layers import KeysValues, Rotation

ALIGNED = 8
"""Numbers of half precision in the 16 bytes that a thread reads at a time: strides are multiples of it."""
WIDEST = 128
"""Of a head: blocks of wider ones were not tried."""
PARTS, LEAST = 96, 64
"""The most parts of a head's keys, and the fewest tokens of one: with TOKENS, WARPS and STAGES the fastest of those
that `benchmarks/decode_attention.py --search` tries, on an H200."""
JOINED = 128
"""The most parts that `join` takes."""
TOKENS, WARPS, STAGES = 32, 4, 2
"""Tokens of a block of keys, and how the kernel runs."""


def fits(query: torch.Tensor, rotation: Rotation, held: KeysValues, new: KeysValues) -> bool:
    """Whether `attend` takes them."""
    alike = all(_alike(pair, query) for pair in (held, new))
    return alike and new[0].shape[-1] <= WIDEST and row.rotates(query, rotation)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotation: Rotation,
    place: torch.Tensor,
    held: KeysValues,
    new: KeysValues,
    scale: float,
    raw: torch.Tensor | None = None,
) -> torch.Tensor:
    """A token's attention to all keys held, to the new ones before its place and to itself: (1, heads, 1, d).

    query: (1, heads, 1, d) and key, value: (1, kv heads, 1, d), before rotation. place: (1,), on the device, the number
    of new tokens so far. held: keys and values (1, kv heads, n, d). new: such places, where the key, rotated, and the
    value are stored; raw: where the key is also stored without rotation, as in new.
    """
    from sharedllm.nn import flash_decoding_kernels

    heads, size = query.shape[1], query.shape[-1]
    count, places = held[0].shape[2], new[0].shape[2]
    share = max(LEAST, -(-(count + places) // (PARTS * TOKENS)) * TOKENS)
    parts = -(-count // share)
    total = parts + -(-places // share)
    mixed = query.new_empty(total, heads, size, dtype=torch.float32)
    log_sums = query.new_empty(total, heads, dtype=torch.float32)
    query, key, value = (x.contiguous() for x in (query, key, value))
    cos, sin = (x.to(query.device).contiguous() for x in rotation)
    with launch.launches_on(query):
        flash_decoding_kernels.attend_part[(total, key.shape[1])](
            query,
            key,
            value,
            cos,
            sin,
            place,
            *held,
            *new,
            new[0] if raw is None else raw,
            mixed,
            log_sums,
            count,
            share,
            parts,
            *(x.stride(i) // ALIGNED for x in (held[0], new[0]) for i in (2, 1)),
            scale,
            D=size,
            BLOCK=max(16, launch.power(size)),
            GROUPS=heads // key.shape[1],
            ROWS=max(16, launch.power(heads // key.shape[1])),
            RAW=raw is not None,
            ALIGNED=ALIGNED,
            TOKENS=TOKENS,
            STAGES=STAGES,
            num_warps=WARPS,
        )
    return join(mixed, log_sums, torch.empty_like(query))


def join(mixed: torch.Tensor, log_sums: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Fill made, which holds heads * d numbers, with the attention to the keys of all parts. mixed: that of each part,
    (parts, heads, d), of JOINED parts at most. log_sums: its log-sum-exps (parts, heads) in float32, -inf where it has
    no keys."""
    from sharedllm.nn import flash_decoding_kernels

    parts, heads, size = mixed.shape
    assert parts <= JOINED
    with launch.launches_on(mixed):
        flash_decoding_kernels.join[(heads, -(-size // 64))](
            mixed, log_sums, made, parts, heads, size, PARTS=JOINED, COLUMNS=64, num_warps=8
        )
    return made


def _alike(pair: KeysValues, query: torch.Tensor) -> bool:
    """Whether keys and values lie as one kernel reads them, where the query is."""
    keys, values = pair
    return (
        keys.stride() == values.stride()
        and keys.stride(-1) == 1
        and all(stride % ALIGNED == 0 for stride in keys.stride()[:-1])
        and (keys.dtype, keys.device) == (query.dtype, query.device)
    )
