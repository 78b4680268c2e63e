"""What the device can do, measured in the run itself: the floors that a method's times are compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from evals.measure.request import Clock

REPEATS = 10
MATMUL_SIZE = {"cuda": 8192, "cpu": 512}
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 25}


@dataclass(frozen=True)
class Rates:
    """matmul_flops: FLOPs a second of a large square product; copy_bytes: bytes a second read and written."""

    matmul_flops: float
    copy_bytes: float


@torch.inference_mode()
def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Medians over repeats, after a warm-up, with nothing else on the device."""
    size = MATMUL_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.zeros(COPY_BYTES[device.type], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Rates(
        matmul_flops=2 * size**3 / _seconds(device, lambda: torch.mm(left, right, out=product)),
        copy_bytes=2 * source.numel() / _seconds(device, lambda: target.copy_(source)),
    )


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    clock = Clock(device)
    clock.mark()
    for _ in range(REPEATS):
        work()
        clock.mark()
    return statistics.median(clock.spans())
