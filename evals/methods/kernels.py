"""Which kernel computes attention: what `--attn auto` means on a device.

Methods call torch's scaled_dot_product_attention (SDPA), which hands a call to the first of its back ends that can take
it. Torch has an order of its own; where another one was measured to be faster, `auto` takes that. Where flash-attn-4 is
installed and measured to be faster, it computes attention of many queries after a longer context (bottom-right causal).
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from evals.packages import version
from sharedllm.nn.attention import bottom_right_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
FLASH_ATTN_4 = "flash-attn-4"
MEASURED: dict[tuple[int, int], tuple[str, ...]] = {(9, 0): (FLASH_ATTN_4,)}
"""Compute capability -> fastest correct order, by benchmarks/attention_kernels.py; elsewhere torch's own holds. On an
H100 no other order of back ends came within 25 % of torch's (cuDNN first), but for bottom-right causal attention, which
cuDNN plans anew for every length, flash-attn-4 is faster (results/measured/h100-7b/attention_kernels.json)."""


def fastest(device: str) -> tuple[str, ...]:
    """The kernels that were measured to be the fastest on this device, in order; empty: torch's own order."""
    if torch.device(device).type != "cuda":
        return ()
    found = MEASURED.get(torch.cuda.get_device_capability(device), ())
    return tuple(name for name in found if name != FLASH_ATTN_4 or version(FLASH_ATTN_4))


@contextmanager
def kernel_order(names: Sequence[str]) -> Iterator[None]:
    """Within it, SDPA prefers the back ends in this order and uses no other; none named: torch's own order. If
    flash-attn-4 is named, it takes the calls that it is faster at. Undone at the end."""
    backends = [BACKENDS[name] for name in names if name != FLASH_ATTN_4]
    with ExitStack() as stack:
        if backends:
            stack.enter_context(sdpa_kernel(backends, set_priority=True))
        if FLASH_ATTN_4 in names:
            stack.enter_context(bottom_right_kernel(flash_attn_4))
        yield


def flash_attn_4(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """`attend_last` by that package: (B, q, S, d) on (B, kv, keys, d) -> (B, q, S, d)."""
    attend = _flash_attn_func()
    out = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), softmax_scale=scale, causal=True)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # it also returns the log-sum-exp


class FlashAttention(Protocol):
    """flash-attn-4's function: (B, S, heads, d) each; returns the output, or a tuple that starts with it."""

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, /, *, softmax_scale: float | None, causal: bool
    ) -> torch.Tensor | tuple[torch.Tensor, ...]: ...


@functools.cache
def _flash_attn_func() -> FlashAttention:
    warnings.filterwarnings("ignore", message="Argument aux_data")  # its compiler's, of a part that is not used here
    return cast(FlashAttention, importlib.import_module("flash_attn.cute").flash_attn_func)
