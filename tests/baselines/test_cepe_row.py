"""Kernels of CEPE's cross-attention of one token against plain operations, and where the model uses them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from baselines.cepe import row as states_row
from baselines.cepe.modeling import CrossAttention, EncodedContext
from sharedllm.nn import launch, row

SIZES = [(4, 4, 8, 48, 150), (6, 2, 16, 40, 64), (33, 33, 8, 64, 31)]
"""Heads, key heads, head size, encoder's width, encoder states."""


def cross_attention(heads: int, kv: int, size: int, width: int) -> CrossAttention:
    config = LlamaConfig(
        hidden_size=heads * size, num_attention_heads=heads, num_key_value_heads=kv, encoder_hidden_size=width
    )
    torch.manual_seed(0)
    made = CrossAttention(config).requires_grad_(False)
    nn.init.normal_(made.k_proj.weight, 0, 3 * width**-0.5)  # scores that differ: a few states weigh most
    nn.init.normal_(made.v_proj.weight, 0, width**-0.5)
    return made


def check_kernels(sizes: tuple[int, ...], dtype: torch.dtype, device: str, tolerance: float) -> None:
    """Against the plain form in float64: several parts, of which the last is not full, or one. tolerance: in standard
    deviations of the result."""
    heads, kv, size, width, count = sizes
    cross = cross_attention(heads, kv, size, width).to(device, dtype)
    states = torch.randn(1, count + 5, width, device=device, dtype=dtype)[:, :count]
    query = torch.randn(1, heads, 1, size, device=device, dtype=dtype)
    assert states_row.fits(query.view(1, 1, -1), states, [cross.k_proj, cross.v_proj], size)
    got = states_row.attend(query, states, cross.k_proj, cross.v_proj)
    wanted = cross.double()._absorbed(query.double(), EncodedContext(states.double()))
    assert (got.double() - wanted).abs().max() < tolerance * wanted.std()


# the interpreter of Triton 3.6 runs no loops with bounds like these under numpy 2.4; that of 3.9 does
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_in_the_interpreter(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "_fits", lambda x: True)
    monkeypatch.setattr(launch, "launches_on", lambda x: nullcontext())
    monkeypatch.setattr(states_row, "_has_room", lambda device: True)
    check_kernels(sizes, torch.float32, "cpu", 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [*SIZES, (32, 32, 128, 1024, 28673), (9, 3, 64, 576, 5000)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gpu_kernels(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    if not states_row._has_room(torch.device("cuda")):
        pytest.skip("needs a Hopper GPU")
    with torch.inference_mode():
        check_kernels(sizes, dtype, "cuda", 0.1)


@pytest.mark.parametrize("why", ["nothing", "mask", "tokens", "width", "GPU"])
def test_kernels_take_one_token_and_unmasked_states(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`why` they do not; the result is that of the plain form either way."""
    cross = cross_attention(2, 2, 16, 64)
    hidden = torch.randn(1, 2 if why == "tokens" else 1, 32)
    mask = torch.ones(1, 11, dtype=torch.bool) if why == "mask" else None
    context = EncodedContext(torch.randn(1, 11, 64), mask)
    plain, calls = cross(hidden, context, 0), []

    def products(x: torch.Tensor, linears: Any, norm: Any = None, residual: Any = 0) -> torch.Tensor:
        return residual + linears[0](x if norm is None else norm(x))

    def attend(query: torch.Tensor, states: torch.Tensor, *projections: Any) -> torch.Tensor:
        calls.append((query, states))
        return cross._absorbed(query, context)

    monkeypatch.setattr(row, "_fits", lambda x: True)
    monkeypatch.setattr(row, "products", products)
    monkeypatch.setattr(states_row, "attend", attend)
    monkeypatch.setattr(states_row, "_has_room", lambda device: why != "GPU")
    monkeypatch.setattr(states_row, "WIDEST", 32 if why == "width" else 64)
    torch.testing.assert_close(cross(hidden, context, 0), plain)
    assert len(calls) == (why == "nothing")
