"""Elementwise pieces of a decoder layer, each in one pass over memory.

A stock layer reads and writes memory a dozen times for its norms, rotation and gate: at the LLaMA-2-7B shape that is a
quarter of a long prefill and half of the kernels of a decoding step. On a GPU, outside training, these pieces are
compiled by torch.compile, a few seconds once for all layers and lengths, and heads are rotated by a kernel of our own;
matrix products stay with cuBLAS and attention with SDPA. Everywhere else (CPU, gradients, inside a graph that is
compiled as a whole) the plain form runs.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from sharedllm.nn import launch
from sharedllm.nn.layers import GatedMLP, Norm, Rotation

PLACED = 1024
"""Pairs of numbers that a program of the kernel places: eight a thread, which are 16 bytes of half precision."""
FEW = 64
"""Tokens below which launching the kernel takes longer than a copy by torch."""
WIDTHS = 3
"""Widths that a piece is compiled for by themselves; what follows shares one graph. torch compiles a function eight
times at most, and for a single row apart."""
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


def add_norm(
    norm: Norm, x: torch.Tensor, update: torch.Tensor, into: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + update, norm(x + update)), all (..., H). into: where the sum goes, contiguous and apart from x and update; a
    new tensor where it is left out."""
    x = x.to(update.device)
    if not compiles(x):
        x = x + update if into is None else torch.add(x, update, out=into)
        return x, norm(x)
    if into is None:
        total, normed = _compiled(_add_norm)(_rows(x), _rows(update), norm.weight, norm.variance_epsilon)
        return total.view(x.shape), normed.view(x.shape)
    place = into.view(-1, into.shape[-1])
    normed = _compiled(_add_norm_into)(place, _rows(x), _rows(update), norm.weight, norm.variance_epsilon)
    return into, normed.view(x.shape)


def mlp(block: GatedMLP, x: torch.Tensor) -> torch.Tensor:
    """block(x) for the base's gated MLP; x (..., H). Fused projections and mixtures of experts run as they are."""
    if not compiles(x) or not hasattr(block, "gate_proj"):
        return block(x)
    rows = _rows(x)
    return block.down_proj(_compiled(_gate)(block.gate_proj(rows), block.up_proj(rows), block.act_fn)).view(x.shape)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """Rotary embedding of x (B, heads, S, d) by cos and sin that broadcast to it.

    Dimension i is paired with i + d / 2, as in Llama, Mistral and Qwen. Where cos and sin are wider than x (float32),
    the result is rounded once, at the end. Where they have fewer dimensions, the last ones of x stay as they are. into:
    where the result goes, (B, heads, S, d) as projections leave heads in memory; a new tensor where it is left out.
    """
    cos, sin = cos.to(x.device), sin.to(x.device)
    if (size := cos.shape[-1]) < x.shape[-1]:
        made = torch.cat([rotate(x[..., :size], cos, sin), x[..., size:]], -1)
    elif not compiles(x):
        made = rotated(x, cos, sin)
    else:
        tokens = x.transpose(1, 2)  # as projections leave it in memory
        rows = None if into is None else into.transpose(1, 2).flatten(0, 1)
        made = place_rows(tokens.flatten(0, 1), into=rows, rotation=(_by_text(cos, x), _by_text(sin, x)))
        return torch.unflatten(made, 0, tokens.shape[:2]).transpose(1, 2)
    return made if into is None else into.copy_(made)


def place_rows(
    x: torch.Tensor,
    more: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
    rotation: Rotation | None = None,
    into: torch.Tensor | None = None,
    at: torch.Tensor | None = None,
) -> torch.Tensor:
    """Heads in another order, rotated, in their places: one pass over memory. Returns `into`.

    x: (rows, heads, d). more: rows after them, of the same form. order: which of both each row of the result is; None:
    all of x. rotation: of the results, (texts, tokens, d) each; None: they stay as they are. into: (places, heads, d),
    in any order of memory that keeps a head together; a new tensor where it is left out. at: which of the places each
    result goes to; None: they fill them. order and at are on the device: no size depends on them.
    """
    in_kernel = compiles(x) and x.shape[-1] % 2 == 0  # which takes a head by its halves
    return (_place_in_kernel if in_kernel else _place)(x, more, order, rotation, into, at)


def store(x: torch.Tensor, into: torch.Tensor) -> None:
    """Copy x to a place of a cache, both (B, heads, S, d): as projections leave heads in memory, and as the cache holds
    them. torch's copy between different orders of memory is slower, unless tokens are few."""
    if not compiles(x) or x.shape[2] < FEW:
        into.copy_(x)
        return
    for heads, place in zip(x, into, strict=True):
        place_rows(heads.transpose(0, 1), into=place.transpose(0, 1))


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
    made = _compiled(_attend_more, widths=False) if compiles(query) else _attend_more
    return made(keys, values, query, bias, out, log_sum, scale)


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
def _compiled(function: Callable[P, T], widths: bool = True) -> Callable[P, T]:
    """widths: whether all sizes but the first are the model's."""
    made, own = torch.compile(function), set[tuple[torch.Size, ...]]()

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.ndim > 1]
        sizes = tuple(x.shape[1:] for x in tensors)
        if widths and len(own) < WIDTHS:
            own.add(sizes)
        for x in tensors:  # one graph for any number of rows
            torch._dynamo.maybe_mark_dynamic(x, 0)
            if sizes in own:  # else the second width would make one for all, which is slower
                torch._dynamo.mark_static(x, list(range(1, x.ndim)))
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


def _add_norm_into(
    place: torch.Tensor, x: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    total = x + update
    place.copy_(total)
    return _rms_norm(total, weight, epsilon)


def _gate(gate: torch.Tensor, up: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return activation(gate) * up


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rotate` as plain operations on any shapes that broadcast: a piece of functions that are compiled as a whole."""
    left, right = x.chunk(2, -1)
    return (x * cos + torch.cat([-right, left], -1) * sin).to(x.dtype)


def _by_text(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A table that broadcasts to x (B, heads, S, d), but for the heads: (B, S, d), without a copy."""
    return table.expand(len(x), 1, x.shape[2], -1)[:, 0]


def _place(
    x: torch.Tensor,
    more: torch.Tensor | None,
    order: torch.Tensor | None,
    rotation: Rotation | None,
    into: torch.Tensor | None,
    at: torch.Tensor | None,
) -> torch.Tensor:
    """`place_rows` as plain operations."""
    if order is not None:
        x = (x if more is None else torch.cat([x, more]))[order]
    if rotation is not None:
        x = rotated(x, *(table.reshape(-1, 1, table.shape[-1]) for table in rotation))
    if into is None:
        return x
    return into.copy_(x) if at is None else into.index_copy_(0, at, x)


def _place_in_kernel(
    x: torch.Tensor,
    more: torch.Tensor | None,
    order: torch.Tensor | None,
    rotation: Rotation | None,
    into: torch.Tensor | None,
    at: torch.Tensor | None,
) -> torch.Tensor:
    """`place_rows` in one kernel."""
    from sharedllm.nn import place_kernel

    count, (heads, size) = len(x if order is None else order), x.shape[1:]
    made = x.new_empty(count, heads, size) if into is None else into
    assert made.stride(-1) == 1
    if not count:
        return made
    x, more = (each if each[0].is_contiguous() else each.contiguous() for each in (x, x if more is None else more))
    half, steps, tokens = launch.power(size // 2), (0, 0, 0, 0), 1
    cos = sin = x
    if rotation is not None:
        cos, sin = (table if table.stride(-1) == 1 else table.contiguous() for table in rotation)
        steps, tokens = (cos.stride(0), cos.stride(1), sin.stride(0), sin.stride(1)), cos.shape[1]
    together = min(max(1, PLACED // half), launch.power(heads))
    with launch.launches_on(x):
        place_kernel.place_rows[(count, -(-heads // together))](
            x,
            more,
            x if order is None else order,
            cos,
            sin,
            made,
            x if at is None else at,
            len(x),
            x.stride(0),
            more.stride(0),
            made.stride(0),
            made.stride(1),
            heads,
            tokens,
            *steps,
            D=size,
            BLOCK=half,
            HEADS=together,
            ORDERED=order is not None,
            ROTATED=rotation is not None,
            PLACED=at is not None,
            num_warps=4,
        )
    return made


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
