"""Which kernel computes attention: what `--attn auto` means on a device.

Methods call torch's scaled_dot_product_attention (SDPA), which hands a call to the first of its back ends that can take
it. Torch has an order of its own; where another one was measured to be faster, `auto` takes that. Many queries behind a
longer context, causal with the corner at the end, go to flash-attn-4 where it is installed and measured to be faster.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from evals.packages import version
from sharedllm.nn.attention import corner_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
CORNER = "flash-attn-4"
MEASURED: dict[tuple[int, int], tuple[str, ...]] = {(9, 0): (CORNER,)}
"""Compute capability -> fastest correct order, by benchmarks/attention_kernels.py; elsewhere torch's own holds. On an
H100 no other order of back ends came within 25 % of torch's (cuDNN first), but where the corner is at the end, which
cuDNN plans anew for every length, flash-attn-4 is faster (results/measured/h100-7b/attention_kernels.json)."""


def fastest(device: str) -> tuple[str, ...]:
    """The kernels that were measured to be the fastest on this device, in order; empty: torch's own order."""
    if torch.device(device).type != "cuda":
        return ()
    found = MEASURED.get(torch.cuda.get_device_capability(device), ())
    return tuple(name for name in found if name != CORNER or version(CORNER))


@contextmanager
def order(kernels: Sequence[str]) -> Iterator[None]:
    """Within it, SDPA prefers the back ends in this order and uses no other; none named: torch's own. flash-attn-4, if
    named, takes the calls that it is faster at. Undone at the end."""
    backends = [BACKENDS[name] for name in kernels if name != CORNER]
    with ExitStack() as stack:
        if backends:
            stack.enter_context(sdpa_kernel(backends, set_priority=True))
        if CORNER in kernels:
            stack.enter_context(corner_kernel(flash_attn_4))
        yield


def flash_attn_4(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Causal attention of the last queries: (B, q, S, d) on (B, kv, keys, d) -> (B, q, S, d), by that package."""
    out = _flash_attn_func()(*(x.transpose(1, 2) for x in (query, key, value)), softmax_scale=scale, causal=True)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # it also hands out the sums


@functools.cache
def _flash_attn_func() -> Callable[..., Any]:
    warnings.filterwarnings("ignore", message="Argument aux_data")  # its compiler's, of a part that is not used here
    return importlib.import_module("flash_attn.cute").flash_attn_func
