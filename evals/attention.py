"""Which kernel computes attention: what `--attn auto` means on a device.

Methods call torch's scaled_dot_product_attention (SDPA), which hands a call to the first of its back ends that can take
it. Torch has an order of its own; where another one was measured to be faster, `auto` takes that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
MEASURED: dict[tuple[int, int], tuple[str, ...]] = {(9, 0): ()}
"""Compute capability -> fastest correct order, by benchmarks/attention_kernels.py; elsewhere torch's own holds. On an
H100 no other came within 25 % of it (cuDNN first; results/measured/h100-7b/attention_kernels.json)."""


def fastest(device: str) -> tuple[str, ...]:
    """The order of back ends that was measured to be the fastest on this device; empty: torch's own order."""
    if torch.device(device).type != "cuda":
        return ()
    return MEASURED.get(torch.cuda.get_device_capability(device), ())


@contextmanager
def order(backends: Sequence[str]) -> Iterator[None]:
    """Within it, SDPA prefers the back ends in this order, and uses no other; empty: torch's own. Undone at the end."""
    if not backends:
        yield
        return
    with sdpa_kernel([BACKENDS[name] for name in backends], set_priority=True):
        yield
