"""Elementwise pieces of a decoder layer, each in one pass over memory.

A stock layer reads and writes memory a dozen times for its norms, rotation and gate: at the LLaMA-2-7B shape that is a
quarter of a long prefill and half of the kernels of a decoding step. On a GPU, outside training, these pieces are
compiled by torch.compile, a few seconds once for all layers and lengths; matrix products stay with cuBLAS and attention
with SDPA. Everywhere else (CPU, gradients, inside a graph that is compiled as a whole) the plain form runs.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from sharedllm.nn.layers import GatedMLP, Norm

P = ParamSpec("P")
T = TypeVar("T")


def rms_norm(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """norm(x) for the base's RMS norm; x (..., H). Norms of another form than Llama's run as they are.

    The result is where the norm is: where a model is spread over GPUs, x may come from another one.
    """
    if not compiles(x) or not hasattr(norm, "variance_epsilon"):
        return norm(x)
    x = x.to(norm.weight.device)
    normed: torch.Tensor = _compiled(_rms_norm)(_rows(x), norm.weight, norm.variance_epsilon)
    return normed.view(x.shape)


def add_norm(norm: Norm, x: torch.Tensor, update: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + update, norm(x + update)), all (..., H)."""
    x = x.to(update.device)
    if not compiles(x):
        x = x + update
        return x, norm(x)
    total, normed = _compiled(_add_norm)(_rows(x), _rows(update), norm.weight, norm.variance_epsilon)
    return total.view(x.shape), normed.view(x.shape)


def mlp(block: GatedMLP, x: torch.Tensor) -> torch.Tensor:
    """block(x) for the base's gated MLP; x (..., H). Fused projections and mixtures of experts run as they are."""
    if not compiles(x) or not hasattr(block, "gate_proj"):
        return block(x)
    rows = _rows(x)
    return block.down_proj(_compiled(_gate)(block.gate_proj(rows), block.up_proj(rows), block.act_fn)).view(x.shape)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x (B, heads, S, d) by cos and sin that broadcast to it.

    Dimension i is paired with i + d / 2, as in Llama, Mistral and Qwen. Where cos and sin are wider than x (float32),
    the result is rounded once, at the end. Where they have fewer dimensions, the last ones of x stay as they are.
    """
    if (size := cos.shape[-1]) < x.shape[-1]:
        return torch.cat([rotate(x[..., :size], cos, sin), x[..., size:]], -1)
    cos, sin = cos.to(x.device), sin.to(x.device)
    if not compiles(x):
        return rotated(x, cos, sin)
    tokens = x.transpose(1, 2).contiguous()  # as projections leave it in memory
    rotation = (t.expand(len(x), 1, x.shape[2], -1).reshape(-1, 1, x.shape[-1]) for t in (cos, sin))
    made: torch.Tensor = _compiled(rotated)(tokens.flatten(0, 1), *rotation)
    return made.view(tokens.shape).transpose(1, 2)


def attend_more(
    keys: torch.Tensor,
    values: torch.Tensor,
    query: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Add a few masked keys to attention that has been computed: the result of one softmax over all keys.

    keys, values: (n, kv, d). query: (kv, groups, q, d). bias: (q, n) or (kv, 1, q, n), added to the scores. out,
    log_sum: attention (kv, groups, q, d) over the earlier keys, and its log-sum-exp (kv, groups, q) in float32.
    """
    return compiled(_attend_more, query)(keys, values, query, bias, out, log_sum, scale)


def compiled(function: Callable[P, T], x: torch.Tensor) -> Callable[P, T]:
    """`function`, compiled where that pays for tensors like `x`.

    In tensors of two or more dimensions the first may change between calls; all other sizes are the model's.
    """
    return _compiled(function) if compiles(x) else function


def compiles(x: torch.Tensor) -> bool:
    """Whether pieces that take x are compiled: on a GPU, outside training, where Triton is installed."""
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling() and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _compiled(function: Callable[P, T]) -> Callable[P, T]:
    made = torch.compile(function)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for arg in args:  # one graph for any number of rows
            if isinstance(arg, torch.Tensor) and arg.ndim > 1:
                torch._dynamo.maybe_mark_dynamic(arg, 0)
        return made(*args, **kwargs)

    return call


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * scaled.to(x.dtype)


def _add_norm(
    x: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + update
    return total, _rms_norm(total, weight, epsilon)


def _gate(gate: torch.Tensor, up: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return activation(gate) * up


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rotate` as plain operations on any shapes that broadcast: a piece of functions that are compiled as a whole."""
    left, right = x.chunk(2, -1)
    return (x * cos + torch.cat([-right, left], -1) * sin).to(x.dtype)


def _attend_more(
    keys: torch.Tensor,
    values: torch.Tensor,
    query: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    keys, values = (x.transpose(0, 1)[:, None, None].float() for x in (keys, values))
    scores = (query[..., None, :].float() * keys).sum(-1) * scale + bias
    highest = torch.maximum(scores.amax(-1), log_sum)
    weights, before = (scores - highest[..., None]).exp(), (log_sum - highest).exp()[..., None]
    mixed = (weights[..., None] * values).sum(-2) + before * out.float()
    return (mixed / (weights.sum(-1, keepdim=True) + before)).to(query.dtype)
