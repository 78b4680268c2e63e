"""Attention of one token to keys in parts against one softmax in float64, and which tensors the kernels take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from sharedllm.nn import flash_decoding, fused, launch, row

SIZES = [
    (4, 4, 16, 150, 7),  # parts of 32: the last is not full
    (9, 3, 24, 64, 64),  # shared heads, more than a block; parts are full
    (2, 1, 8, 1, 0),  # one key, and no new one
    (1, 1, 8, 0, 31),  # the last place of the first part; nothing held
    (8, 8, 8, 33, 32),  # the first place of the second part
    (3, 3, 8, 4001, 90),  # as many parts as there may be
]
"""Heads, key heads, head size, keys held, new keys before the token's."""
PLACES = 128


class Step(NamedTuple):
    """What `flash_decoding.attend` is given."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    rotation: tuple[torch.Tensor, torch.Tensor]
    place: torch.Tensor
    held: tuple[torch.Tensor, torch.Tensor]
    new: tuple[torch.Tensor, torch.Tensor]
    raw: torch.Tensor | None


def step(sizes: tuple[int, ...], like: torch.Tensor, raw: bool, by_token: bool) -> Step:
    """by_token: the memory of what is held, in a larger buffer. Behind its end, and in places yet to come, is NaN."""
    heads, kv, size, count, number = sizes

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=like.dtype, device=like.device)

    def filled(places: int, tokens: int) -> torch.Tensor:
        """(1, kv, places, size), of which so many tokens are there."""
        made = random(1, kv, places, size)
        made[:, :, tokens:] = torch.nan
        return made

    angle = torch.rand(1, 1, 1, size // 2, device=like.device).repeat(1, 1, 1, 2) * 6
    held = [filled(count + 9, count) for _ in range(2)]
    if by_token:
        held = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in held]
    keys, values = (x[:, :, :count] for x in held)
    new = [filled(PLACES, number) for _ in range(2)]
    joined = random(1, 1, (heads + 2 * kv) * size).split([heads * size, kv * size, kv * size], -1)
    query, key, value = (x.view(1, 1, -1, size).transpose(1, 2) for x in joined)
    place = torch.tensor([number], device=like.device)
    plain = torch.zeros_like(new[0]) if raw else None
    return Step(query, key, value, (angle.cos(), angle.sin()), place, (keys, values), (new[0], new[1]), plain)


def wanted(given: Step, scale: float) -> torch.Tensor:
    """One softmax over what is held, the new keys so far and the token's own; rotated heads are rounded, as the plain
    way rounds them."""
    number = int(given.place)
    query, key = (fused.rotated(x, *given.rotation).double() for x in (given.query, given.key))
    keys, values = (
        torch.cat([held.double(), new.double()[:, :, :number], own.double()], 2)
        for held, new, own in zip(given.held, given.new, (key, given.value), strict=True)
    )
    return F.scaled_dot_product_attention(query, keys, values, scale=scale, enable_gqa=True)


@contextmanager
def poisoned() -> Iterator[None]:
    """Empty tensors are full of NaN, so that what is read before it is written shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_kernels(sizes: tuple[int, ...], dtype: torch.dtype, device: str, tolerance: float) -> None:
    """In both orders of memory, with and without raw keys."""
    torch.manual_seed(sum(sizes))
    like, number = torch.empty(0, dtype=dtype, device=device), sizes[-1]
    for raw in (False, True):
        given = step(sizes, like, raw, by_token=raw)
        expected, before = wanted(given, 0.7), [x.clone() for x in given.new]
        assert flash_decoding.fits(given.query, given.rotation, given.held, given.new)
        with poisoned():
            got = flash_decoding.attend(*given[:-1], 0.7, given.raw)
        torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)

        stored = fused.rotated(given.key, *given.rotation), given.value
        for places, old, own in zip(given.new, before, stored, strict=True):
            torch.testing.assert_close(places[:, :, number : number + 1], own, atol=tolerance, rtol=tolerance)
            old[:, :, number] = places[:, :, number]
            assert torch.equal(places.isnan(), old.isnan())  # nothing else was written
            assert torch.equal(places.nan_to_num(), old.nan_to_num())
        if given.raw is not None:
            assert torch.equal(given.raw[:, :, number : number + 1], given.key)
            assert given.raw.count_nonzero() == given.key.numel()


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_in_the_interpreter(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "_fits", lambda x: True)
    monkeypatch.setattr(launch, "launches_on", lambda x: nullcontext())
    check_kernels(sizes, torch.float32, "cpu", 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [*SIZES, (32, 32, 104, 1088, 63), (32, 32, 104, 131071, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gpu_kernels(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    with torch.inference_mode():
        check_kernels(sizes, dtype, "cuda", 0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_graph_reads_how_many_tokens_are_new() -> None:
    """Captured once, replayed while the places fill."""
    torch.manual_seed(0)
    with torch.inference_mode():
        given = step((4, 2, 16, 500, 0), torch.empty(0, dtype=torch.bfloat16, device="cuda"), True, True)
        for places in given.new:
            places.nan_to_num_()
        args = *given[:-1], 0.7, given.raw
        flash_decoding.attend(*args)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = flash_decoding.attend(*args)
        for number in range(PLACES):
            given.place.fill_(number)
            for x in given[:3]:
                x.normal_()
            expected = wanted(given, 0.7)
            graph.replay()
            torch.testing.assert_close(got.double(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("why", ["nothing", "GPU", "rotation", "width", "order", "stride", "dtype"])
def test_kernels_take_aligned_heads_of_one_token(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`why` they do not."""
    given = step((2, 2, 12 if why == "stride" else 16, 20, 3), torch.empty(0), False, False)
    if why != "GPU":
        monkeypatch.setattr(row, "_fits", lambda x: True)
    if why == "width":
        monkeypatch.setattr(flash_decoding, "WIDEST", 8)
    rotation, (keys, values) = given.rotation, given.held
    if why == "rotation":
        rotation = rotation[0][..., :4], rotation[1][..., :4]
    if why == "order":
        values = values.transpose(1, 2).contiguous().transpose(1, 2)
    if why == "dtype":
        keys, values = keys.double(), values.double()
    assert flash_decoding.fits(given.query, rotation, (keys, values), given.new) == (why == "nothing")
