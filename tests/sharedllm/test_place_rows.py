"""Heads in their order and places, rotated: the kernel of a GPU against plain operations."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from sharedllm.nn import fused, launch

SIZES = [(7, 3, 4), (5, 4, 16), (3, 40, 64), (2, 2, 6), (4, 1, 256)]
"""Rows, heads and head size."""


def check_kernel(
    sizes: tuple[int, int, int], dtype: torch.dtype, device: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every use of it: a rotation alone, of several texts; an order of two kinds of rows; places on the device."""
    monkeypatch.setattr(fused, "FEW", 0)
    torch.manual_seed(0)
    (rows, heads, size), many = sizes, {"dtype": dtype, "device": device}

    def close(got: Any, wanted: Any) -> None:
        torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)

    def both(*args: Any, into: torch.Tensor | None = None) -> None:
        """x, more, order, rotation and at, with and without tensors to write to."""
        *first, at = args
        place, other = (None if into is None else into.clone() for _ in range(2))
        close(fused._place_in_kernel(*first, place, at), fused._place(*first, other, at))
        if place is not None:
            close(place, other)

    x, more = torch.randn(rows, heads, size, **many), torch.randn(3, heads, size, **many)
    order = torch.randperm(rows + 3, device=device)
    angle = torch.rand(1, len(order), size // 2, device=device).repeat(1, 1, 2) * 6
    for kind in (torch.float32, dtype):
        rotation = angle.cos().to(kind), angle.sin().to(kind)
        own = rotation[0][:, :rows], rotation[1][:, :rows]
        both(x, None, None, own, None)
        both(x, None, None, own, None, into=torch.zeros_like(x))
        both(x, more, order, rotation, None)
        many_places = torch.zeros(rows + 9, heads, size, **many)
        both(x, more, order, rotation, torch.arange(4, 4 + len(order), device=device), into=many_places)
        both(x, None, None, own, torch.arange(4, 4 + rows, device=device), into=many_places)
    both(x, more, order, None, torch.arange(2, 2 + len(order), device=device), into=many_places)
    both(x, more, order, None, None, into=torch.zeros(len(order), heads, size, **many))

    wide = torch.randn(len(order), 2 * heads * size, **many)  # parts of a joined product
    parts = (wide[:rows, : heads * size].view(x.shape), wide[rows:, heads * size :].view(more.shape))
    both(*parts, order, rotation, None)
    both(x[:0], None, None, None, None, into=x[:0])

    texts = torch.randn(3, rows, heads, size, **many).transpose(1, 2)
    one, each, fixed = angle[:, None, :rows], torch.rand(3, 1, rows, size, device=device), angle[:, None, :1]
    for angles in (one, each, fixed):
        got = fused.rotate(texts, angles.cos(), angles.sin())
        close(got, fused.rotated(texts, angles.cos(), angles.sin()))
        assert got.transpose(1, 2).is_contiguous()
    room = torch.zeros(1, rows + 5, heads, size, **many).transpose(1, 2)
    fused.rotate(texts[:1], one.cos(), one.sin(), into=room[:, :, 2 : 2 + rows])
    close(room[:, :, 2 : 2 + rows], fused.rotated(texts[:1], one.cos(), one.sin()))
    assert room[:, :, :2].count_nonzero() == room[:, :, 2 + rows :].count_nonzero() == 0
    cache = torch.zeros(3, heads, rows + 5, size, **many)
    fused.store(texts, cache[:, :, 2 : 2 + rows])
    close(cache[:, :, 2 : 2 + rows], texts)
    fused.rotate(texts[:1], one.cos(), one.sin(), into=cache[:1, :, 5:])
    close(cache[:1, :, 5:], fused.rotated(texts[:1], one.cos(), one.sin()))
    assert cache[:, :, :2].count_nonzero() == cache[1:, :, 2 + rows :].count_nonzero() == 0
    scattered = torch.randn(1, heads, rows, size, **many)  # not as projections leave heads
    close(fused.rotate(scattered, one.cos(), one.sin()), fused.rotated(scattered, one.cos(), one.sin()))


@pytest.mark.parametrize("sizes", SIZES)
def test_plain_operations_serve_a_cpu(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_place_in_kernel", fused._place)
    check_kernel(sizes, torch.float32, "cpu", 1e-5, monkeypatch)


def test_heads_without_halves_are_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "compiles", lambda x: True)
    x, cache = torch.randn(1, 2, fused.FEW, 5), torch.zeros(1, 2, fused.FEW + 3, 5)
    fused.store(x, cache[:, :, 1:-2])
    assert torch.equal(cache[:, :, 1:-2], x)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("sizes", SIZES)
def test_the_kernel_in_the_interpreter(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "compiles", lambda x: True)
    monkeypatch.setattr(launch, "launches_on", lambda x: nullcontext())
    check_kernel(sizes, torch.float32, "cpu", 1e-5, monkeypatch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [*SIZES, (1088, 32, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gpu_kernel(sizes: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        check_kernel(sizes, dtype, "cuda", 1e-5 if dtype == torch.float32 else 0.03, monkeypatch)


def test_a_second_width_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that is compiled for any width is slower; the number of rows may change."""
    made: list[list[torch.Size]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        made.append([x.shape for x in inputs if isinstance(x, torch.Tensor)])
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile(function, backend=backend))

    def double(x: torch.Tensor) -> torch.Tensor:
        return x + x

    doubled = fused._compiled(double)
    with torch.no_grad():
        for width in (24, 40, 24, 56, 72, 88, 40):
            for rows in (3, 17, 5):
                assert torch.equal(doubled(torch.ones(rows, width)), torch.full((rows, width), 2.0))
    widths = [str(shape[1]) for (shape,) in made]
    assert widths[:3] == ["24", "40", "56"]
    assert len(widths) == 4  # the fourth is for all others
