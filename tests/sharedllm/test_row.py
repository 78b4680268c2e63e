"""Kernels of one row against the plain operations, and where a layer uses them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AutoConfig, AutoModelForCausalLM

from sharedllm.nn import branches, fused, launch, row
from sharedllm.nn.layers import decoder_of

SIZES = [(32, 48, 8, 2, 2), (72, 56, 8, 3, 1), (96, 1032, 16, 4, 2)]
"""Hidden, intermediate, head, query heads in a group, key heads."""


def one(*shape: int, like: torch.Tensor) -> torch.Tensor:
    return torch.randn(*shape, dtype=like.dtype, device=like.device)


def check_kernels(sizes: tuple[int, ...], dtype: torch.dtype, device: str, tolerance: float) -> None:
    """Each kernel against float64."""
    torch.manual_seed(0)
    like = torch.empty(0, dtype=dtype, device=device)
    check_products(sizes, like, tolerance)
    check_heads(sizes, like, tolerance)
    check_attention(sizes, like, tolerance)


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got.double(), wanted.double(), atol=tolerance, rtol=tolerance)


def times(x: torch.Tensor, *linears: Any) -> torch.Tensor:
    return torch.cat([x.double() @ linear.weight.double().T for linear in linears], -1)


def check_products(sizes: tuple[int, ...], like: torch.Tensor, tolerance: float) -> None:
    """With norm, residual and gate."""
    hidden, wide, size, groups, kv = sizes
    config = AutoConfig.for_model(
        "llama",
        vocab_size=8,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=1,
        num_attention_heads=groups * kv,
        num_key_value_heads=kv,
        head_dim=size,
        initializer_range=0.3,
    )
    layer = decoder_of(AutoModelForCausalLM.from_config(config).to(like)).layers[0]
    norm, attention = layer.input_layernorm, layer.self_attn
    nn.init.normal_(norm.weight, 1)
    x, attended = one(1, 1, hidden, like=like), one(1, 1, groups * kv * size, like=like)
    normed = F.rms_norm(x.double(), (hidden,), norm.weight.double(), norm.variance_epsilon)
    projections: Sequence[Any] = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert row.are_plain(projections, x)
    close(row.products(x, projections, norm), times(normed, *projections), tolerance)
    close(row.products(attended, [attention.o_proj], residual=x), x + times(attended, attention.o_proj), tolerance)
    gated = F.silu(times(normed, layer.mlp.gate_proj)) * times(normed, layer.mlp.up_proj)
    close(row.gated(x, layer.mlp, norm), gated, tolerance)


def check_heads(sizes: tuple[int, ...], like: torch.Tensor, tolerance: float) -> None:
    """Rotated and stored."""
    _, _, size, groups, kv = sizes
    query, key, value = (
        one(1, 1, n * size, like=like).view(1, 1, n, size).transpose(1, 2) for n in (groups * kv, kv, kv)
    )
    keys, values, raw = (like.new_zeros(1, kv, 70, size) for _ in range(3))
    angle = torch.rand(1, 1, 1, size // 2, device=like.device).repeat(1, 1, 1, 2)
    rotation, place = (angle.cos(), angle.sin()), torch.tensor([41], device=like.device)
    assert row.rotates(query, rotation)
    made = row.rotate_and_store(query, key, value, rotation, place, keys, values, raw)
    close(made, fused.rotated(query, *rotation), tolerance)
    close(keys[:, :, 41:42], fused.rotated(key, *rotation), tolerance)
    close(values[:, :, 41:42], value, tolerance)
    assert keys.count_nonzero() == key.numel()
    assert torch.equal(raw[:, :, 41:42], key)
    assert raw.count_nonzero() == key.numel()


def check_attention(sizes: tuple[int, ...], like: torch.Tensor, tolerance: float) -> None:
    """To places, after attention to other keys and after none."""
    _, _, size, groups, kv = sizes
    grouped = one(kv, groups, 1, size, like=like)
    keys, values = (one(1, kv, 70, size, like=like)[0].transpose(0, 1) for _ in range(2))
    before, after = (one(1, kv, groups, 5, size, like=like)[0] for _ in range(2))
    scores = (grouped.double() @ before.double().mT) * 0.3
    later = torch.einsum("hgqd,nhd->hgqn", grouped.double(), keys.double()) * 0.3
    out, log_sum = scores.softmax(-1) @ after.double(), scores.logsumexp(-1).float()
    nothing = torch.full_like(log_sum, -torch.inf)
    at, last = (torch.arange(n, device=like.device) for n in (70, kv))
    for unseen in (at[None] > 41, at > last[:, None, None, None] + 41):  # for all heads alike, and for each its own
        bias = torch.zeros(unseen.shape, device=like.device).masked_fill(unseen, -torch.inf)
        more = later + bias
        shares = torch.cat([scores, more], -1).softmax(-1)
        wanted = shares[..., :5] @ after.double() + torch.einsum("hgqn,nhd->hgqd", shares[..., 5:], values.double())
        close(row.attend_more(keys, values, grouped, bias, out.to(like), log_sum, 0.3), wanted, tolerance)
        alone = torch.einsum("hgqn,nhd->hgqd", more.softmax(-1), values.double())
        close(row.attend_more(keys, values, grouped, bias, out.to(like), nothing, 0.3), alone, tolerance)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton and TRITON_INTERPRET=1")
@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_in_the_interpreter(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "_fits", lambda x: True)
    monkeypatch.setattr(launch, "launches_on", lambda x: nullcontext())
    check_kernels(sizes, torch.float32, "cpu", 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [*SIZES, (4096, 11008, 128, 1, 32)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gpu_kernels(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    with torch.inference_mode():
        check_kernels(sizes, dtype, "cuda", 0.03)


class Reference:
    """The kernels' functions as plain operations, and how often each was called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = {"products": 0, "gated": 0}
        patch.setattr(row, "_fits", lambda x: not torch.is_grad_enabled())
        patch.setattr(row, "products", self.products)
        patch.setattr(row, "gated", self.gated)

    def products(
        self, x: torch.Tensor, projections: Any, norm: Any = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.calls["products"] += 1
        x = x if norm is None else norm(x)
        made = torch.cat([linear(x) for linear in projections], -1)
        return made if residual is None else residual + made

    def gated(self, x: torch.Tensor, block: Any, norm: Any) -> torch.Tensor:
        self.calls["gated"] += 1
        return F.silu(block.gate_proj(norm(x))) * block.up_proj(norm(x))


PLAIN = {"products": 3, "gated": 1}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "llama": ({}, PLAIN),
    "mistral": ({}, PLAIN),
    "qwen3": ({}, PLAIN),  # norms of the heads follow
    "qwen2": ({}, {"products": 2, "gated": 1}),  # biases of queries, keys and values
    "phi3": ({"pad_token_id": 0}, {"products": 1, "gated": 0}),  # fused projections
    "gemma3_text": ({}, {"products": 0, "gated": 0}),  # other norms, and other places of them
    "granite": ({"residual_multiplier": 0.5}, {"products": 1, "gated": 0}),  # branches are scaled
    "olmo2": ({}, {"products": 0, "gated": 0}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_same_in_kernels(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both branches of a layer of each family, with kernels wherever they fit, and those are as many as they can be."""
    fields, wanted = FAMILIES[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **fields,
    )
    layer = decoder_of(AutoModelForCausalLM.from_config(config).eval()).layers[0]
    x, attended = torch.randn(1, 1, 32), torch.randn(1, 1, 32)

    def results() -> list[torch.Tensor]:
        with torch.no_grad():
            added = branches.add_attention(layer, x, attended)
            return [*branches.project(layer, x), added, branches.feed_forward(layer, x)]

    plain = results()
    reference = Reference(monkeypatch)
    for got, other in zip(results(), plain, strict=True):
        torch.testing.assert_close(got, other)
    assert reference.calls == wanted


@pytest.mark.parametrize("change", ["adapter", "bias", "hook", "dtype", "rows", "offloaded", "quantised"])
def test_projections_that_are_not_plain_are_called(change: str) -> None:
    linear: Any = nn.Linear(8, 12 if change == "rows" else 16, bias=change == "bias")
    x = torch.randn(1, 8, dtype=torch.float64 if change == "dtype" else torch.float32)
    if change == "adapter":
        linear = type("Adapter", (nn.Linear,), {})(8, 16, bias=False)
    elif change == "hook":
        linear.register_forward_hook(lambda *args: None)
    elif change == "offloaded":
        linear.forward = lambda x: x
    elif change == "quantised":
        linear.weight = nn.Parameter(TwoTensor(linear.weight.data, linear.weight.data), requires_grad=False)
        assert (type(linear), linear.weight.dtype) == (nn.Linear, x.dtype)
    assert not row.are_plain([linear], x)
    assert row.are_plain([nn.Linear(8, 16, bias=False)], torch.randn(1, 8))
